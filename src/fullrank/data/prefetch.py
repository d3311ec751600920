"""Results computed ahead of their use."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], depth: int = 2) -> Iterator[Result]:
    """`function` of each item in order, up to `depth` results ahead of the consumer, in one thread."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fullrank-ahead")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Do not wait: an abandoned iterator may be collected in any thread, even in this pool's own.
        pool.shutdown(wait=False, cancel_futures=True)
