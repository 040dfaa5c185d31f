"""What is freed returns to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import os
from shortlist_server import memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

memory.separate_large_blocks()
bytearray(30_000_000)  # From now on glibc, left to itself, serves all smaller blocks from its heap.
before = resident()
blocks = [bytearray(b"x") * 500_000 for _ in range(200)]
assert resident() - before > 90_000_000
last = bytearray(b"x") * 1000
small = [bytearray(b"x") * 2000 for _ in range(1000)]
del blocks
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about an allocator that is not here")
def test_large_blocks_return_as_soon_as_they_are_freed() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 20_000_000
