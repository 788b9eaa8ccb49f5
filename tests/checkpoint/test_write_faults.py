"""A disk that is full, read-only or failing: the last good file stays, nothing else does, and the error says so."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from geomol.checkpoint import load_model, load_state, read_tensors, save_model, save_state, write_tensors
from geomol.errors import GeomolWarning, OutputError

CALLS = ("open", "write", "fsync", "link", "replace", "mkdir")


@contextmanager
def failing(call: int, code: int, names: tuple[str, ...] = CALLS) -> Iterator[list[str]]:
    """The `call`-th of the named system calls raises; a write first writes half. Gives the calls that were made."""
    made: list[str] = []
    originals = {name: getattr(os, name) for name in names}

    def wrap(name: str) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            made.append(name)
            if len(made) == call:
                if name == "write":
                    originals["write"](args[0], args[1][: len(args[1]) // 2])
                raise OSError(code, os.strerror(code))
            return originals[name](*args, **kwargs)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(os, name, wrap(name))
        yield made


def loaded_step(folder: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeomolWarning)
        return load_state(folder)["step"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_fault_in_each_call_of_a_save_leaves_a_complete_state(tmp_path, make_state, code):
    save_state(tmp_path, make_state(0))
    save_state(tmp_path, make_state(1))
    faults = 0
    for call in range(1, 50):
        before = loaded_step(tmp_path)
        fault = None
        try:
            with failing(call, code) as made:
                save_state(tmp_path, make_state(before + 1))
        except OutputError as error:
            fault = error
        assert loaded_step(tmp_path) in ((before + 1,) if fault is None else (before, before + 1))
        if fault is not None:
            faults += 1
            assert str(tmp_path / "state.safetensors") in str(fault)
            assert os.strerror(code) in str(fault)
            assert fault.exit_code == 74
        assert {file.name for file in tmp_path.iterdir()} <= {"state.safetensors", "state.prev.safetensors"}
        if len(made) < call:
            break
    assert faults >= 6
    assert len(made) < call, "the last save met no fault"
    assert "link" in made, "the control: the calls are those of the save"
    assert made.index("fsync") < made.index("replace"), "the data is on the disk before the name is given"
    assert made[-2:] == ["open", "fsync"], "the folder is synced last"


def test_a_full_disk_leaves_the_last_state_and_the_next_save_works(tmp_path, make_state):
    save_state(tmp_path, make_state(1))
    kept = (tmp_path / "state.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {**make_state(2), "moments": torch.ones(50_000)}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) * 2, hard))
        with pytest.raises(
            OutputError, match=r"state\.safetensors: could not be written \(File too large\); free some"
        ):
            save_state(tmp_path, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "state.safetensors").read_bytes() == kept
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]
    save_state(tmp_path, big)
    assert load_state(tmp_path)["step"] == 2


@pytest.mark.parametrize("call", range(1, 6))
def test_a_fault_while_a_model_is_written_leaves_the_old_model(tmp_path, potential, call):
    path = tmp_path / "model.safetensors"
    save_model(path, potential, provenance={"run": 1}, errors={}, symmetry={})
    old = path.read_bytes()
    with (
        failing(call, errno.ENOSPC, ("open", "write", "fsync", "replace")),
        pytest.raises(OutputError, match="No space left on device"),
    ):
        save_model(path, potential, provenance={"run": 2}, errors={}, symmetry={})
    new_name_given = call == 5  # only the sync of the folder failed
    assert (path.read_bytes() == old) is not new_name_given
    assert load_model(path).elements == potential.elements
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/run/a\.safetensors: could not be written"):
        write_tensors(tmp_path / "file" / "run" / "a.safetensors", {}, {})


def test_a_read_only_folder_is_an_output_error(make_state):
    nobody = 65534  # the superuser may write everywhere, and steps down for this test
    with tempfile.TemporaryDirectory() as name:
        folder, user = Path(name), os.geteuid()
        save_state(folder, make_state(1))
        folder.chmod(0o555)
        try:
            if user == 0:
                os.seteuid(nobody)
            with pytest.raises(OutputError, match="Permission denied"):
                save_state(folder, make_state(2))
        finally:
            if user == 0:
                os.seteuid(user)
            folder.chmod(0o700)
        assert load_state(folder)["step"] == 1


def test_an_interrupt_from_the_keyboard_leaves_no_temporary_file(tmp_path, make_state, monkeypatch):
    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    save_state(tmp_path, make_state(1))
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, make_state(2))
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]
    assert load_state(tmp_path)["step"] == 1


def test_files_of_killed_writers_are_removed_and_those_of_living_ones_are_not(tmp_path):
    path = tmp_path / "model[1].safetensors"
    dead, alive = tmp_path / ".model[1].safetensors.00.tmp", tmp_path / ".model[1].safetensors.11.tmp"
    other = tmp_path / ".other.safetensors.22.tmp"
    for file in (dead, alive, other):
        file.write_text("half")
    with alive.open() as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        write_tensors(path, {"a": torch.ones(1)}, {})
    assert (dead.exists(), alive.exists(), other.exists()) == (False, True, True)
    assert torch.equal(read_tensors(path)[0]["a"], torch.ones(1))


def test_a_new_file_has_the_permissions_that_the_user_asks_for(tmp_path):
    mask = os.umask(0o027)
    try:
        write_tensors(tmp_path / "a.safetensors", {}, {})
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o640
