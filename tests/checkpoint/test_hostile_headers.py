"""Files made to exhaust or confuse a reader: each gets a typed error, at once, in little memory."""

from __future__ import annotations

import json
import resource
import time

import pytest
import torch

from geomol.checkpoint import load_model, read_tensors
from geomol.checkpoint.allowance import Allowance
from geomol.checkpoint.manifest import seal
from geomol.errors import CheckpointError

SECONDS = 1.0  # of processor time, so that a busy machine changes nothing
MEMORY = 256 * 2**20


def header(entries: dict[str, object], **more: object) -> dict[str, object]:
    """A header whose manifest is intact, so that the rules for the entries are reached."""
    manifest = {"format": "geomol.tensors", "format_version": 1, "tensors": dict.fromkeys(entries, "0" * 64), **more}
    return {"__metadata__": {"geomol": seal(manifest, "here")}, **entries}


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def doubled(entries: dict[str, object]) -> bytes:
    text = json.dumps(header(entries))
    return (text[:-1] + ', "a": ' + json.dumps(entries["a"]) + "}").encode()


HUGE = 2**62
HEADERS: dict[str, tuple[object, bytes, int | None]] = {
    "a length of 2**64 - 1": (b"{}", b"", 2**64 - 1),
    "a length of 2**63": (b"{}", b"", 2**63),
    "a length beyond the cap": (b"{}", b"", 1_000_001),
    "a length beyond the file": (b"{}", b"", 1000),
    "a length of zero": (b"", b"", 0),
    "an empty header": (b"{}", b"", None),
    "not JSON": (b"hello", b"", None),
    "not UTF-8": (b'{"\xff\xfe": 1}', b"", None),
    "a list": (b"[]", b"", None),
    "a number": (b"1", b"", None),
    "nested lists": (b"[" * 500_000, b"", None),
    "nested objects": (b'{"a":' * 150_000, b"", None),
    "a number of a million digits": (b'{"a":' + b"9" * 900_000 + b"}", b"", None),
    "NaN": (b'{"a":NaN}', b"", None),
    "no metadata": ({"a": entry()}, bytes(8), None),
    "metadata of another program": ({"__metadata__": {"format": "pt"}, "a": entry()}, bytes(8), None),
    "metadata that is no object": ({"__metadata__": 3}, b"", None),
    "a manifest that is no text": ({"__metadata__": {"geomol": {"a": 1}}}, b"", None),
    "an unsealed manifest": ({"__metadata__": {"geomol": "{}"}}, b"", None),
    "an empty manifest": ({"__metadata__": {"geomol": ""}}, b"", None),
    "a manifest of lone surrogates": (b'{"__metadata__":{"geomol":"' + b"\\ud800" * 90 + b'"}}', b"", None),
    "overlapping tensors": (header({"a": entry(), "b": entry(offsets=(4, 12))}), bytes(12), None),
    "identical places": (header({"a": entry(), "b": entry()}), bytes(8), None),
    "a gap": (header({"a": entry(), "b": entry(offsets=(12, 20))}), bytes(20), None),
    "data before the first tensor": (header({"a": entry(offsets=(4, 12))}), bytes(12), None),
    "data after the last tensor": (header({"a": entry()}), bytes(9), None),
    "offsets beyond the file": (header({"a": entry(offsets=(0, 800), shape=(200,))}), bytes(8), None),
    "offsets of 2**62": (header({"a": entry(shape=(HUGE // 4,), offsets=(0, HUGE))}), bytes(8), None),
    "negative offsets": (header({"a": entry(offsets=(-8, 0))}), bytes(8), None),
    "reversed offsets": (header({"a": entry(offsets=(8, 0))}), bytes(8), None),
    "three offsets": (header({"a": entry(offsets=(0, 4, 8))}), bytes(8), None),
    "offsets that are no integers": (header({"a": entry(offsets=(0, 8.0))}), bytes(8), None),
    "true as an offset": (header({"a": entry(dtype="U8", shape=(1,), offsets=(False, True))}), bytes(1), None),
    "a shape that overflows 64 bits": (header({"a": entry(shape=(HUGE, 4, 4, 2))}), bytes(8), None),
    "a shape that overflows to the right size": (header({"a": entry(shape=(2**32, 2**32, 2))}), bytes(8), None),
    "a negative shape": (header({"a": entry(shape=(-1, -2))}), bytes(8), None),
    "a shape of 1000 dimensions": (header({"a": entry(shape=(1,) * 1000 + (2,))}), bytes(8), None),
    "a huge empty shape": (header({"a": entry(shape=(0, HUGE, HUGE), offsets=(0, 0))}), b"", None),
    "a shape that is no list": (header({"a": entry(shape="2")}), bytes(8), None),
    "an unknown type": (header({"a": entry(dtype="F31")}), bytes(8), None),
    "a type that is no text": (header({"a": entry(dtype=["F32"])}), bytes(8), None),
    "an entry that is no object": (header({"a": [0, 8]}), bytes(8), None),
    "an entry with a key missing": (header({"a": {"dtype": "F32", "shape": [2]}}), bytes(8), None),
    "an entry with one key more": (header({"a": {**entry(), "x": 1}}), bytes(8), None),
    "a tensor named twice": (doubled({"a": entry()}), bytes(8), None),
    "10 001 tensors": (
        header({hex(i): entry(shape=(0,), offsets=(0, 0)) for i in range(10_001)}, tensors={}),
        b"",
        None,
    ),
    "a wrong checksum": (header({"a": entry()}), bytes(8), None),
    "a manifest without tensors": (header({"a": entry()}, tensors={}), bytes(8), None),
    "a manifest with other tensors": (header({"a": entry()}, tensors={"b": "0" * 64}), bytes(8), None),
    "a manifest with a list of tensors": (header({"a": entry()}, tensors=["a"]), bytes(8), None),
    "a manifest without a version": (header({}, format_version=None), b"", None),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_hostile_header_is_refused_at_once(tmp_path, raw_file, case):
    content, data, length = HEADERS[case]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(raw_file(content, data, length=length))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=r"hostile\.safetensors: "):
        read_tensors(path)
    assert time.process_time() - start < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("a length of 2**64 - 1", "header is too long, expected at most 1000000 bytes, got 18446744073709551615"),
        ("overlapping tensors", 'tensor "b" leaves a gap or overlaps another'),
        ("identical places", "leaves a gap or overlaps another"),
        ("a gap", "leaves a gap or overlaps another"),
        ("a tensor named twice", "header is not readable JSON"),
        ("a shape that overflows to the right size", 'tensor "a" does not fill its place'),
        ("10 001 tensors", "too many tensors, expected at most 10000, got 10001"),
        ("metadata of another program", "without a manifest of geomol"),
    ],
)
def test_the_rule_that_refuses_a_header_is_ours_and_names_the_fault(tmp_path, raw_file, case, message):
    """Before the library that reads safetensors, or a checksum, has the chance."""
    content, data, length = HEADERS[case]
    (tmp_path / "hostile.safetensors").write_bytes(raw_file(content, data, length=length))
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path / "hostile.safetensors")


def test_the_helper_makes_files_that_are_read_when_nothing_is_wrong(tmp_path, raw_file):
    """The control: what is refused above is refused for its fault, not for how it was made."""
    path = tmp_path / "good.safetensors"
    path.write_bytes(raw_file(header({})))
    assert read_tensors(path)[0] == {}


def test_a_sparse_file_of_a_terabyte_is_refused_unread(tmp_path, raw_file):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(raw_file(header({"a": entry()})))
    with path.open("r+b") as file:
        try:
            file.truncate(2**40)
        except OSError:  # the file system has no files of that size
            file.truncate(2**33)
    with pytest.raises(CheckpointError, match="wrong length"):
        read_tensors(path)


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 10**9},
        {"channels": 10**6},
        {"channels": 10**12},
        {"num_radial": 10**9},
        {"num_radial": -1},
        {"channels": "many"},
        {"cutoff": {"a": 1}},
        {"name": "os.system"},
        {"name": ["egnn"]},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_hostile_configuration_builds_nothing(tmp_path, potential, raw_file, change):
    config = {**potential.config, "backbone": {**potential.config["backbone"], **change}}
    manifest = {"format": "geomol.model", "class": "Potential", "config": config, "dtype": "float32"}
    (tmp_path / "hostile.safetensors").write_bytes(raw_file(header({}, **manifest)))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=r"hostile\.safetensors: "):
        load_model(tmp_path / "hostile.safetensors")
    assert time.process_time() - start < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


def test_building_may_allocate_what_the_weights_justify_and_no_more():
    def small_ones_forever() -> None:
        while True:
            torch.empty(0)

    small, large = {"a": torch.zeros(10)}, {"a": torch.zeros(1_000_000)}
    with Allowance(large):
        assert torch.zeros(1000, 10_000).sum() == 0
    for ask in (
        lambda: torch.empty(1000, 10_000),
        lambda: torch.zeros((10**7,)),
        lambda: torch.arange(1, 10**12),
        small_ones_forever,
    ):
        with Allowance(small), pytest.raises(MemoryError, match="more memory than its weights"):
            ask()
    assert torch.zeros(10**7).numel() == 10**7, "nothing is limited outside the block"


@pytest.mark.parametrize(
    "manifest",
    [
        {"class": "os.system", "config": {}},
        {"class": "Module", "config": {}},
        {"class": "Potential"},
        {"class": "Potential", "config": []},
        {"class": "Potential", "config": {}},
        {"class": "Potential", "config": {"backbone": {}}},
        {"class": ["Potential"], "config": {}},
        {"class": None, "config": {}},
    ],
    ids=str,
)
def test_only_listed_classes_are_built_and_only_from_whole_configurations(tmp_path, raw_file, manifest):
    (tmp_path / "hostile.safetensors").write_bytes(raw_file(header({}, format="geomol.model", **manifest)))
    with pytest.raises(CheckpointError, match=r"not a model|configuration|cannot be built"):
        load_model(tmp_path / "hostile.safetensors")
