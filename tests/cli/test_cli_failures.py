"""Bad input at the command line: one line on standard error, a code that says what happened, never a traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from ase.calculators.calculator import PropertyNotImplementedError

import geomol
from geomol.cli import main
from geomol.cli.failure import explain, report_failure
from geomol.errors import GeomolWarning, InputError, MDInstabilityError, OutputError


def run_in_a_shell(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m geomol` as a user runs it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(geomol.__file__).parents[1])}
    command = [sys.executable, "-m", "geomol", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


def the_one_line(text: str) -> str:
    (line,) = text.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_mistyped_command_ends_in_one_line_and_code_2(tmp_path):
    done = run_in_a_shell("trian", cwd=tmp_path)
    assert done.returncode == 2
    assert "trian" in the_one_line(done.stderr)
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_ends_in_one_line_and_code_2(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["info", "no-such-model"]) == 2
    assert "no-such-model" in the_one_line(capsys.readouterr().err)


def test_a_missing_argument_is_named_in_one_line(capsys):
    assert main(["info"]) == 2
    assert "MODEL" in the_one_line(capsys.readouterr().err)


def test_an_unknown_option_is_named_in_one_line(capsys):
    assert main(["info", "x", "--jsn", "y"]) == 2
    assert "--jsn" in the_one_line(capsys.readouterr().err)


def test_a_pickle_given_as_a_model_is_refused_without_being_read(capsys, tmp_path):
    """Unpickling this file would create another one."""
    trap = tmp_path / "ran"
    path = tmp_path / "model.pt"
    path.write_bytes(b"cposix\nsystem\n(S'touch %s'\ntR." % str(trap).encode())
    assert main(["info", str(path)]) == 2
    assert "pickle" in the_one_line(capsys.readouterr().err)
    assert not trap.exists()


@pytest.mark.parametrize("words", [["--debug", "info", "no-such-model"], ["info", "no-such-model", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(capsys, words):
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("error: ")


def test_a_message_of_several_lines_is_printed_as_one(capsys):
    report_failure(InputError("first\n  second", where="a.xyz"), debug=False)
    assert the_one_line(capsys.readouterr().err) == "error: a.xyz: first second"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad"), 2),
        (MDInstabilityError("exploded"), 3),
        (OutputError("disk full"), 74),
        (OSError(errno.ENOSPC, "No space left on device", "a.csv"), 74),
        (OSError(errno.EROFS, "Read-only file system", "a.csv"), 74),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a.csv"), 74),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.xyz"), 2),
        (PropertyNotImplementedError("stress needs a periodic structure"), 2),
        (ModuleNotFoundError("No module named 'tblite'", name="tblite"), 2),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("division by zero"), 70),
    ],
)
def test_the_exit_code_says_what_kind_of_failure_it_was(error, code):
    line, actual = explain(error)
    assert actual == code
    assert line


def test_the_line_for_a_full_disk_names_the_file():
    assert explain(OSError(errno.ENOSPC, "No space left on device", "a.csv"))[0] == "a.csv: No space left on device"


def test_a_warning_is_one_line_without_the_source_that_raised_it(capsys, monkeypatch, tmp_path):
    def warn_and_write(run: Path, out: Path | None) -> Path:
        warnings.warn("two\nlines", GeomolWarning, stacklevel=2)
        return run

    monkeypatch.setattr("geomol.cli.report.write_report", warn_and_write)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["report", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.err == "warning: two lines\n"
    assert captured.out.strip() == str(tmp_path)


def test_an_interrupted_command_says_so_and_ends_with_130(capsys, monkeypatch, tmp_path):
    def interrupt(run: Path, out: Path | None) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("geomol.cli.report.write_report", interrupt)
    assert main(["report", str(tmp_path)]) == 130
    assert the_one_line(capsys.readouterr().err) == "error: interrupted"


def test_a_command_leaves_the_hooks_of_the_process_alone(capsys):
    before = sys.excepthook, warnings.showwarning, list(warnings.filters)
    main(["info", "no-such-model"])
    assert (sys.excepthook, warnings.showwarning, list(warnings.filters)) == before


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert main([]) == 0
    assert capsys.readouterr().out == text
    for command in ("info", "report"):
        assert command in text
