"""What a log file gets of the progress of long work."""

from __future__ import annotations

import pytest

from geomol.cli import progress


def test_a_log_gets_a_line_for_each_tenth_and_every_five_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.progress_bar("work") as bar:
        for percent in (0, 4, 9, 10, 11, 20):  # ten seconds each
            now += 10
            bar.update(percent / 100, "quick")
        for minute in range(12):  # a crawl
            now += 60
            bar.update(0.20 + minute / 1000, "slow")
        bar.update(1.0, "done")
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        ["0%", "quick"],
        ["10%", "quick"],
        ["20%", "quick"],
        ["20%", "slow"],
        ["21%", "slow"],
        ["100%", "done"],
    ]
