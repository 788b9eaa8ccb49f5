"""What the command line tells the C library and torch about memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geomol.cli.memory import use_large_pages

MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LARGE_PAGES = """
import sys
from pathlib import Path
if sys.argv[1] == "in a command":
    import geomol.cli
    geomol.cli.main(["--version"])
import torch
kept = torch.ones(64 << 20)  # 256 MiB
lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
print("KiB", next(line.split()[1] for line in lines if line.startswith("AnonHugePages")))
"""


@pytest.mark.skipif(
    not MODE.is_file() or "[madvise]" not in MODE.read_text(), reason="large pages are not given to those that ask"
)
def test_large_tensors_lie_on_large_pages():
    def kibibytes(how: str) -> int:
        command = [sys.executable, "-c", LARGE_PAGES, how]
        unset = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
        done = subprocess.run(command, env=unset, capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1])

    without, with_them = kibibytes("elsewhere"), kibibytes("in a command")
    assert without < 100 << 10
    assert with_them > 200 << 10, "of 256 MiB"


def test_what_the_user_has_set_holds(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    use_large_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
