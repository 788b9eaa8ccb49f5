"""One file of tensors: exact, deterministic, and every fault found before a tensor is used."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import sys
import zipfile

import pytest
import safetensors.torch
import torch

from geomol.checkpoint import read_tensors, write_tensors
from geomol.checkpoint.header import DTYPES
from geomol.checkpoint.manifest import FORMAT_VERSION, seal
from geomol.checkpoint.tensors import read_header
from geomol.errors import CheckpointError, GeomolError, SecurityError


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "weight": torch.randn(5, 7, generator=generator, dtype=torch.float64),
        "bias": torch.randn(7, generator=generator),
        "count": torch.arange(4),
        "mask": torch.tensor([True, False]),
        "scalar": torch.tensor(-0.0),
        "empty": torch.zeros(0, 5),
    }


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=list(DTYPES))
def test_every_type_comes_back_bit_for_bit(tmp_path, dtype):
    values = {
        "v": torch.arange(6).reshape(2, 3).to(dtype),
        "scalar": torch.ones(()).to(dtype),
        "none": torch.zeros(0, 2).to(dtype),
    }
    write_tensors(tmp_path / "a.safetensors", values, {})
    back, _ = read_tensors(tmp_path / "a.safetensors")
    assert {n: (t.dtype, t.shape, bits(t)) for n, t in back.items()} == {
        n: (t.dtype, t.shape, bits(t)) for n, t in values.items()
    }


def test_views_and_shared_tensors_are_stored_by_value(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    values = {
        "base": base,
        "again": base,
        "column": base[:, 1],
        "transposed": base.T,
        "expanded": base[:1].expand(3, 4),
    }
    values["conjugate"] = torch.tensor([1 + 2j]).conj()
    write_tensors(tmp_path / "a.safetensors", values, {})
    back, _ = read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(back[name], values[name]) for name in values)
    back["base"].zero_()
    assert torch.equal(back["again"], base)


def test_the_manifest_comes_back_with_infinite_numbers_and_plain_types(tmp_path):
    manifest = {"cutoff": float("inf"), "loss": float("nan"), "elements": (1, 6), "é": "Å", "mae": torch.tensor(0.5)}
    write_tensors(tmp_path / "a.safetensors", {}, manifest)
    for back in (read_tensors(tmp_path / "a.safetensors")[1], read_header(tmp_path / "a.safetensors")):
        assert back["cutoff"] == float("inf")
        assert back["loss"] != back["loss"]
        assert (back["elements"], back["é"], back["mae"]) == ([1, 6], "Å", 0.5)
        assert back["format_version"] == FORMAT_VERSION


def test_other_programs_can_read_the_file_and_its_manifest(tmp_path):
    write_tensors(tmp_path / "a.safetensors", some_tensors(), {"cutoff": 5.0})
    assert torch.equal(safetensors.torch.load_file(tmp_path / "a.safetensors")["weight"], some_tensors()["weight"])
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert json.loads(file.metadata()["geomol"])["manifest"]["cutoff"] == 5.0


def test_equal_content_gives_identical_files_in_every_process(tmp_path):
    script = (
        "import sys, torch; from geomol.checkpoint import write_tensors\n"
        "write_tensors(sys.argv[1], {'b': torch.ones(2), 'a': torch.zeros(3)}, {'y': {'q': 1, 'p': 2}, 'x': 'z'})"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script, tmp_path / "1.safetensors"], env=environment, check=True)
    for name in "23":
        order = ({"a": torch.zeros(3), "b": torch.ones(2)}, {"x": "z", "y": {"p": 2, "q": 1}})
        write_tensors(tmp_path / f"{name}.safetensors", *order)
    assert len({(tmp_path / f"{name}.safetensors").read_bytes() for name in "123"}) == 1


def test_a_flipped_bit_is_found_anywhere(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, some_tensors(), {"config": {"channels": 64, "cutoff": 5e-05}, "elements": [1, 6], "é": "Å"})
    good, rng, missed_by_safetensors = path.read_bytes(), random.Random(0), 0
    header_bits = 8 * (8 + int.from_bytes(good[:8], "little"))
    chosen = [*range(64), *rng.sample(range(64, header_bits), 300), *rng.sample(range(header_bits, 8 * len(good)), 200)]
    for bit in chosen:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(CheckpointError):
            read_tensors(path, allow_nonfinite=True)
        try:
            safetensors.torch.load(bytes(bad))
            missed_by_safetensors += 1
        except safetensors.SafetensorError:
            pass
    assert missed_by_safetensors > 200, "the control: a reader without hashes does not notice"


def test_a_truncated_or_extended_file_is_found(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, some_tensors(), {})
    good = path.read_bytes()
    for length in sorted({*range(0, 20), *(len(good) * k // 100 for k in range(100)), len(good) - 1}):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match=r"damaged|manifest"):
            read_tensors(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(CheckpointError, match="wrong length"):
        read_tensors(path)


def test_swapped_tensors_are_found(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"aa": torch.ones(3), "bb": torch.zeros(3)}, {})
    swapped = (
        path.read_bytes().replace(b'"aa":{', b'"xx":{').replace(b'"bb":{', b'"aa":{').replace(b'"xx":{', b'"bb":{')
    )
    path.write_bytes(swapped)
    assert torch.equal(safetensors.torch.load(swapped)["aa"], torch.zeros(3)), "the control: the file parses"
    with pytest.raises(CheckpointError, match=r'tensor "(aa|bb)" does not match its checksum'):
        read_tensors(path)


def test_a_tensor_of_another_shape_with_the_same_bytes_is_found(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(2, 3), "empty": torch.zeros(0, 2)}, {})
    for old, new in ((b"[2,3]", b"[3,2]"), (b"[0,2]", b"[0,7]"), (b'"F32","shape":[2', b'"I32","shape":[2')):
        changed = path.read_bytes().replace(old, new)
        safetensors.torch.load(changed)
        (tmp_path / "b.safetensors").write_bytes(changed)
        with pytest.raises(CheckpointError, match="checksum"):
            read_tensors(tmp_path / "b.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name_on_both_sides(tmp_path, value):
    weights = {"layer.0.weight": torch.zeros(3, 3), "layer.1.bias": torch.tensor([0.0, value])}
    with pytest.raises(CheckpointError, match=r"1 of 2 tensors: layer\.1\.bias"):
        write_tensors(tmp_path / "a.safetensors", weights, {})
    assert not list(tmp_path.iterdir())
    write_tensors(tmp_path / "a.safetensors", weights, {}, allow_nonfinite=True)
    with pytest.raises(CheckpointError, match=r"1 of 2 tensors: layer\.1\.bias"):
        read_tensors(tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors", allow_nonfinite=True)[0].keys() == weights.keys()


@pytest.mark.parametrize(
    ("tensors", "manifest", "message"),
    [
        ({"a": torch.zeros(2, dtype=torch.complex128)}, {}, r'"a" cannot be stored.*complex128'),
        ({"a": torch.eye(2).to_sparse()}, {}, "sparse"),
        ({"a": torch.zeros(2, device="meta")}, {}, "meta"),
        ({"": torch.zeros(1)}, {}, "'' cannot name a tensor"),
        ({"__metadata__": torch.zeros(1)}, {}, "cannot name a tensor"),
        ({}, {"a": {"b": [1, object()]}}, r"manifest\.a\.b\[1\] is a object"),
        ({}, {"text": "x" * 1_000_000}, "header is too long"),
        ({str(i): torch.zeros(0) for i in range(10_001)}, {}, r"header is too long|too many tensors"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_before_anything_is_written(tmp_path, tensors, manifest, message):
    with pytest.raises(CheckpointError, match=message):
        write_tensors(tmp_path / "a.safetensors", tensors, manifest)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            FORMAT_VERSION + 1,
            rf"newer format, expected format version {FORMAT_VERSION}, got {FORMAT_VERSION + 1}; update",
        ),
        (0, rf"unknown format, expected format version {FORMAT_VERSION}, got 0"),
        ("1", "unknown format"),
        (True, "unknown format"),
        (None, "unknown format"),
    ],
)
def test_other_format_versions_are_refused_with_both_versions(tmp_path, raw_file, version, message):
    sealed = seal({"format": "geomol.model", "format_version": version, "tensors": {}}, "here")
    (tmp_path / "a.safetensors").write_bytes(raw_file({"__metadata__": {"geomol": sealed}}))
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path / "a.safetensors")


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"")
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".ckpt", ".PT", ".safetensors", ""])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5, "zip"])
def test_pickles_are_refused_whatever_they_are_called(tmp_path, suffix, protocol):
    data = zip_bytes() if protocol == "zip" else pickle.dumps({"a": 1}, protocol=protocol)
    path = tmp_path / f"model{suffix}"
    path.write_bytes(data)
    with pytest.raises(SecurityError, match=r"never opened.*convert the weights"):
        read_tensors(path)


def test_a_pickle_name_is_refused_for_writing(tmp_path):
    with pytest.raises(SecurityError, match=r"model\.pt: pickled weights"):
        write_tensors(tmp_path / "model.pt", {}, {})


def test_a_header_whose_length_looks_like_a_pickle_is_still_read(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(1)}, {"filler": ""})
    shortest = int.from_bytes(path.read_bytes()[:8], "little")
    write_tensors(path, {"a": torch.ones(1)}, {"filler": "x" * (0x480 - shortest)})
    assert path.read_bytes().startswith(b"\x80\x04"), "the control: the first bytes of a pickle"
    assert torch.equal(read_tensors(path)[0]["a"], torch.ones(1))


def test_paths_that_are_no_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path in (tmp_path / "pipe.safetensors", tmp_path, "/dev/zero"):
        with pytest.raises(CheckpointError, match="not a file"):
            read_tensors(path)
    with pytest.raises(CheckpointError, match=r"absent\.safetensors: cannot be read \(No such file"):
        read_tensors(tmp_path / "absent.safetensors")


def test_no_reader_error_is_outside_the_geomol_family(tmp_path, raw_file):
    """Random splices of a valid file: whatever happens is a typed error or the original content."""
    path, rng = tmp_path / "a.safetensors", random.Random(1)
    write_tensors(path, some_tensors(), {"a": 1})
    good = path.read_bytes()
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            start, stop = sorted(rng.choices(range(len(bad)), k=2))
            bad[start : min(stop, start + 40)] = rng.randbytes(rng.randrange(0, 40))
        path.write_bytes(bad)
        try:
            read_tensors(path, allow_nonfinite=True)
        except GeomolError:
            continue
        assert bytes(bad) == good
