"""Memory of the command line: what is freed stays with the process."""

import platform
import subprocess
import sys

import pytest

from geomol.cli import memory

# pages that 1.5 GiB touch when they are asked for a second time
SECOND = """
import resource, runpy, sys
if len(sys.argv) > 1:
    assert runpy.run_path(sys.argv[1])["keep_freed_memory"]()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(256 << 20) for _ in range(6)]
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    del blocks
print(faults)
"""


def faults(*arguments: str) -> int:
    done = subprocess.run([sys.executable, "-c", SECOND, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_that_was_freed_is_used_again():
    assert faults() > 100 * max(1, faults(memory.__file__))
