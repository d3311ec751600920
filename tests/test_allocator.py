import platform
import subprocess
import sys

import pytest

# A step of training frees and allocates blocks like these: 8 MB, 2048 pages each.
SCRIPT = """
import resource
import torch
from fullrank.allocator import keep_freed_memory

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
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_pages_that_were_freed_are_used_again():
    found = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 2048  # fewer than one block's of 80
