"""Training state: what goes in comes out, in two generations, and a damaged one never passes for good."""

from __future__ import annotations

import collections
import math
import pickle
import random
import struct
import tempfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from geomol.checkpoint import load_model, load_state, read_tensors, save_model, save_state, write_tensors
from geomol.checkpoint.header import DTYPES
from geomol.errors import CheckpointError, GeomolWarning

NEWEST, PREVIOUS = "state.safetensors", "state.prev.safetensors"


def same(a: object, b: object) -> bool:
    """Equal in type, order and every bit (all NaN count as one)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, dict):
        return same(list(a.items()), list(b.items()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def test_the_comparison_of_states_tells_apart_what_python_calls_equal():
    """The control for the round trips below."""
    nan_bits = torch.tensor([float("nan")])
    pairs = [(1, True), (1, 1.0), (0.0, -0.0), ([1], (1,)), ({1: 2}, {"1": 2}), ({1: 0, 2: 0}, {2: 0, 1: 0})]
    pairs += [(torch.zeros(2), torch.zeros(2).double()), (torch.zeros(1), torch.zeros(())), (nan_bits, -nan_bits)]
    assert not any(same(a, b) for a, b in pairs)
    assert same({"a": [nan_bits, (math.nan, b"x")]}, {"a": [nan_bits.clone(), (math.nan, b"x")]})


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = math.prod(shape) * DTYPES[dtype].itemsize
    data = draw(st.binary(min_size=count, max_size=count))
    values = bytes(byte & 1 for byte in data) if dtype == "BOOL" else data
    return (
        torch.frombuffer(bytearray(values), dtype=DTYPES[dtype]).reshape(shape)
        if count
        else torch.zeros(shape, dtype=DTYPES[dtype])
    )


simple = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(st.characters(), max_size=8),
    st.binary(max_size=8),
)
keys = st.one_of(simple, st.tuples(simple, simple)).filter(lambda key: key == key and "nan" not in repr(key))
values = st.recursive(
    simple | tensors(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4) | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(state=st.dictionaries(keys, values, max_size=5))
def test_any_nested_state_comes_back_exactly(state):
    with tempfile.TemporaryDirectory() as folder:
        save_state(folder, state)
        assert same(load_state(folder), state)


def test_hard_values_come_back_exactly(tmp_path):
    state = {
        "floats": [0.1, 5e-324, 1.7976931348623157e308, -0.0, math.inf, -math.inf, math.nan],
        "integers": [2**63 - 1, -(2**63), 2**63, -(2**200), 10**5000],
        "text": ["", "\x00", "\ud800", "Å", '"\\'],
        "a.b": {"c": torch.zeros(1)},
        "a": {"b.c": torch.ones(1), "b": {"c": torch.full((1,), 2.0)}},
        1: torch.tensor(1),
        "1": torch.tensor(2),
        False: 0,
        None: 0,
        (0, "x"): torch.tensor(3),
        "__metadata__": torch.tensor(4),
        "state.json": torch.tensor(5),
        "": torch.tensor(6),
        "long" * 500: torch.tensor(7),
        "long" * 501: torch.tensor(8),
        "python": random.Random(3).getstate(),
        "numpy": np.random.default_rng(3).bit_generator.state,
        "torch": torch.Generator().manual_seed(3).get_state(),
    }
    save_state(tmp_path, state)
    assert same(load_state(tmp_path), state)


def test_subclasses_of_plain_types_come_back_as_the_plain_type(tmp_path):
    state = {
        "ordered": collections.OrderedDict(b=1, a=2),
        "number": np.float64(0.1),
        "weight": nn.Parameter(torch.ones(2)),
    }
    save_state(tmp_path, state)
    assert same(load_state(tmp_path), {"ordered": {"b": 1, "a": 2}, "number": 0.1, "weight": torch.ones(2)})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(2), r"a\.0\.b: a numpy\.ndarray cannot be stored.*torch\.from_numpy"),
        (np.int64(1), r"numpy\.int64"),
        ({1, 2}, r"builtins\.set"),
        (nn.Linear(1, 1), "Linear"),
        ({torch.zeros(1): 1}, "Tensor"),
        (torch.eye(2).to_sparse(), r"tensor \"a\.0\.b\" cannot be stored"),
    ],
)
def test_what_cannot_come_back_exactly_is_refused_by_its_path(tmp_path, value, message):
    with pytest.raises(CheckpointError, match=message):
        save_state(tmp_path, {"a": [{"b": value}]})
    assert not list(tmp_path.iterdir())


def test_a_state_that_contains_itself_is_refused(tmp_path):
    state: dict[str, object] = {}
    state["again"] = state
    with pytest.raises(CheckpointError, match="nested deeper"):
        save_state(tmp_path, state)


def test_a_state_of_thousands_of_tensors_and_long_lists_fits(tmp_path):
    state = {"moments": [torch.full((), float(i)) for i in range(2500)], "order": list(range(50_000))}
    save_state(tmp_path, state)
    assert same(load_state(tmp_path), state)


def train(steps: int, resume: dict[str, object] | None = None) -> dict[str, object]:
    """A small training run with noise, whose whole state is what it returns."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.SiLU(), nn.Linear(5, 1)).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    groups = [{"params": net[0].parameters(), "lr": 1e-2}, {"params": net[2].parameters()}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, amsgrad=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    if resume is not None:
        net.load_state_dict(resume["net"])
        optimizer.load_state_dict(resume["optimizer"])
        scheduler.load_state_dict(resume["scheduler"])
        generator.set_state(resume["generator"])
    for _ in range(steps):
        x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        (net(x).square().mean()).backward()
        optimizer.step()
        scheduler.step()
    return {
        "net": dict(net.state_dict()),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "generator": generator.get_state(),
    }


def test_training_continued_from_a_file_is_byte_identical_to_training_in_one_piece(tmp_path):
    save_state(tmp_path, train(4))
    resumed, whole = train(5, resume=load_state(tmp_path)), train(9)
    assert same(resumed, whole)
    assert list(resumed["optimizer"]["state"]) == [0, 1, 2, 3], "integer keys"
    assert not same(train(5), whole), "the control: without the file it differs"


def test_nothing_saved_is_none_and_not_an_error(tmp_path):
    assert load_state(tmp_path) is None
    assert load_state(tmp_path / "absent") is None


def test_two_generations_are_kept(tmp_path, make_state):
    for step in (1, 2, 3):
        save_state(tmp_path / "run", make_state(step))
    assert same(load_state(tmp_path / "run"), make_state(3))
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [PREVIOUS, NEWEST]
    (tmp_path / "run" / NEWEST).unlink()
    with pytest.warns(GeomolWarning, match=rf"{NEWEST}: cannot be read.*; the previous state, .*{PREVIOUS}, is used"):
        assert same(load_state(tmp_path / "run"), make_state(2))


def test_every_broken_newest_file_is_noticed_aloud_and_the_previous_one_used(tmp_path, make_state):
    """100 truncations and 500 flipped bits."""
    save_state(tmp_path, make_state(1))
    save_state(tmp_path, make_state(2))
    newest, rng = tmp_path / NEWEST, random.Random(7)
    good = newest.read_bytes()
    broken = [good[: len(good) * k // 100] for k in range(100)]
    for bit in rng.sample(range(8 * len(good)), 500):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        broken.append(bytes(bad))
    for data in broken:
        newest.write_bytes(data)
        with pytest.warns(GeomolWarning, match="the previous state"):
            state = load_state(tmp_path)
        assert state["step"] == 1
    assert same(state, make_state(1))


@pytest.mark.parametrize("foreign", [b"", b"PK\x03\x04rest", pickle.dumps({"step": 9}), b"hello", "a model", "tensors"])
def test_a_foreign_newest_file_is_not_used(tmp_path, make_state, potential, foreign):
    save_state(tmp_path, make_state(1))
    save_state(tmp_path, make_state(2))
    if foreign == "a model":
        save_model(tmp_path / NEWEST, potential, provenance={}, errors={}, symmetry={})
    elif foreign == "tensors":
        write_tensors(tmp_path / NEWEST, {"state.json": torch.zeros(3)}, {"format": "geomol.state"})
    else:
        (tmp_path / NEWEST).write_bytes(foreign)
    with pytest.warns(GeomolWarning, match="the previous state"):
        assert load_state(tmp_path)["step"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "[]",
        "{}",
        '{"dict":1}',
        '{"dict":[1]}',
        '{"dict":[[[],1]]}',
        '{"dict":[["a",{"tensor":"b"}]]}',
        '{"dict":[["a",{"int":"z"}]]}',
        '{"dict":[["a",{"bytes":3}]]}',
        '{"odd":1}',
        '{"a":1,"b":2}',
        "[" * 5000,
        '{"dict":' * 5000,
    ],
    ids=lambda text: text[:30] or "empty",
)
def test_an_intact_file_with_a_senseless_tree_is_refused(tmp_path, text):
    tree = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
    write_tensors(tmp_path / NEWEST, {"state.json": tree}, {"format": "geomol.state"})
    with pytest.raises(CheckpointError, match=r"no valid training state: .*state\.safetensors.*; .*state\.prev"):
        load_state(tmp_path)


def test_two_broken_generations_are_an_error_that_names_both(tmp_path, make_state):
    save_state(tmp_path, make_state(1))
    save_state(tmp_path, make_state(2))
    for name in (NEWEST, PREVIOUS):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match=r"state\.safetensors: damaged.*state\.prev\.safetensors: damaged.*start again"
    ):
        load_state(tmp_path)


def test_a_broken_newest_file_never_becomes_the_previous_one(tmp_path, make_state):
    save_state(tmp_path, make_state(1))
    save_state(tmp_path, make_state(2))
    (tmp_path / NEWEST).write_bytes(b"broken")
    save_state(tmp_path, make_state(3))
    assert same(load_state(tmp_path), make_state(3))
    (tmp_path / NEWEST).unlink()
    with pytest.warns(GeomolWarning, match="previous"):
        assert same(load_state(tmp_path), make_state(1))


def test_a_state_of_a_newer_format_is_not_passed_over(tmp_path, make_state, monkeypatch):
    """Going back a generation would lose work that another version of the program can read."""
    save_state(tmp_path, make_state(1))
    monkeypatch.setattr("geomol.checkpoint.tensors.FORMAT_VERSION", 2)
    monkeypatch.setattr("geomol.checkpoint.manifest.FORMAT_VERSION", 2)
    save_state(tmp_path, make_state(2))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="newer format, expected format version 1, got 2"):
        load_state(tmp_path)


def test_no_pickle_is_opened_on_any_path(tmp_path, make_state, potential, monkeypatch):
    def trap(*args: object, **kwargs: object) -> None:
        raise AssertionError("a pickle was opened")

    for name in ("Unpickler", "_Unpickler", "load", "loads"):
        monkeypatch.setattr(pickle, name, trap)
    monkeypatch.setattr(torch, "load", trap)
    with pytest.raises(AssertionError, match="pickle"):
        pickle.loads(b"")  # the control: the trap works
    for step in (1, 2):
        save_state(tmp_path, make_state(step))
    save_model(tmp_path / "m.safetensors", potential, provenance={}, errors={}, symmetry={})
    assert load_state(tmp_path)["step"] == 2
    assert load_model(tmp_path / "m.safetensors").elements == potential.elements
    assert read_tensors(tmp_path / "m.safetensors")[0]
    (tmp_path / NEWEST).write_bytes(b"\x80\x04}\x94.")
    with pytest.warns(GeomolWarning, match="never opened"):
        assert load_state(tmp_path)["step"] == 1
