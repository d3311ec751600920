import threading
import time

import pytest
from hypothesis import given, settings, strategies as st

from fullrank.data.prefetch import ahead


def workers() -> int:
    return sum(thread.name.startswith("fullrank-ahead") for thread in threading.enumerate())


def wait_until(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to pass")


@settings(max_examples=20, deadline=None)
@given(items=st.lists(st.integers(), max_size=12), depth=st.integers(0, 4))
def test_results_come_in_order(items, depth):
    assert list(ahead(lambda item: -item, items, depth)) == [-item for item in items]


def test_two_results_wait_and_no_more():
    done: list[int] = []
    results = ahead(lambda item: done.append(item) or item, range(10))
    assert next(results) == 0
    wait_until(lambda: done == [0, 1, 2])
    assert next(results) == 1
    wait_until(lambda: done == [0, 1, 2, 3])
    results.close()


def test_an_error_comes_in_its_items_place():
    results = ahead(lambda item: 1 // item, [1, 1, 0, 1])
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    wait_until(lambda: workers() == 0)


@pytest.mark.parametrize("leave", ["close", "forget", "break"])
def test_who_stops_early_leaves_no_thread(leave):
    done: list[int] = []
    results = ahead(lambda item: done.append(item), range(100))
    if leave == "break":
        for _ in results:
            break
        del results
    else:
        next(results)
        if leave == "close":
            results.close()
        else:
            del results
    wait_until(lambda: workers() == 0)
    assert len(done) < 6


def test_what_waits_is_not_begun_once_the_consumer_has_left():
    begun: list[int] = []
    go_on = threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            go_on.wait(30)

    results = ahead(work, range(10))
    next(results)  # by now the second is under way and the third waits
    wait_until(lambda: begun == [0, 1])
    results.close()
    go_on.set()
    wait_until(lambda: workers() == 0)
    assert begun == [0, 1]
