"""The measurements for a GPU run where there is none, and are not done twice."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module", name="script")
def script_fixture() -> ModuleType:
    path = Path(__file__).parents[1] / "gpu" / "measure.py"
    spec = importlib.util.spec_from_file_location("gpu_measure", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lists_operators_and_repeats_are_measured_and_kept(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "ROUNDS", 1)
    monkeypatch.setattr(script, "REPEATS", 2)
    names = ["lists", "operator", "edge_block", "repeats"]
    found = script.measure(tmp_path, torch.device("cpu"), [50], names)
    assert found["repeats"] == {"runs": 2, "other_bits": 0}
    assert found["lists"]["50_ns_per_atom"] > found["lists"]["50_ns_per_pair"] > 0
    assert all(value > 0 for name in ("operator", "edge_block") for value in found[name].values())
    (tmp_path / "lists.json").write_text(json.dumps({"kept": 1.0}))
    assert script.measure(tmp_path, torch.device("cpu"), [50], names)["lists"] == {"kept": 1.0}


def test_rows_are_kept_as_they_come_and_not_measured_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def rows(device: torch.device, sizes: list[int]) -> Iterator[tuple[str, Callable[[], dict[str, float]]]]:
        for num in sizes:

            def figures(num: int = num) -> dict[str, float]:
                if num == 3 and "3" not in measured:
                    measured.append("3")
                    raise KeyboardInterrupt  # as a call is cut off
                measured.append(str(num))
                return {"s": float(num)}

            yield str(num), figures

    monkeypatch.setitem(script.MEASUREMENTS, "rows", rows)
    with pytest.raises(KeyboardInterrupt):
        script.measure(tmp_path, torch.device("cpu"), [1, 2, 3, 4], ["rows"])
    assert json.loads((tmp_path / "rows.partial.json").read_text()) == {"1": {"s": 1.0}, "2": {"s": 2.0}}
    found = script.measure(tmp_path, torch.device("cpu"), [1, 2, 3, 4], ["rows"])
    assert found == {"rows": {"1_s": 1.0, "2_s": 2.0, "3_s": 3.0, "4_s": 4.0}}
    assert measured == ["1", "2", "3", "3", "4"]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
