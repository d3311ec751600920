import platform
import resource

import forked
import pytest
import torch

from fullrank.allocator import keep_freed_memory


def count_faults():
    """Print the page faults of 20 steps that free and allocate blocks of 8 MB, 2048 pages each."""
    keep_freed_memory()

    def step():
        blocks = [torch.ones(2 * 2**20) for _ in range(4)]
        return sum(float(block[0]) for block in blocks)

    for _ in range(5):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_pages_that_were_freed_are_used_again(tmp_path):
    assert forked.finish([forked.start(tmp_path / "faults.txt", count_faults)]) == [0]
    assert int((tmp_path / "faults.txt").read_text()) < 2048  # fewer than one block's of 80
