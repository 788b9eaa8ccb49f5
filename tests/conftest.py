"""What all tests share: where reference data lies, what needs a GPU, and that no test leaves a trace in the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch

# From here on every function of the package is held to the array shapes in its annotations. A test process that has
# imported the package before would go unchecked in silence; tests/test_shapes.py would notice.
jaxtyping.install_import_hook("geomol", "shape_checker.check_shapes")


def folder_from(variable: str, what: str) -> Path:
    """The folder that an environment variable names; the test is skipped, visibly, where it is not set."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: {what} are not part of the repository")
    folder = Path(value)
    assert folder.is_dir(), f"{variable} names {folder}, which is no folder"
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Reference cases computed with the official implementations."""
    return folder_from("GEOMOL_GOLDEN", "reference cases of other implementations")


@pytest.fixture(scope="session")
def benchmark_data() -> Path:
    """Public benchmark sets (rMD17, QM9, ...) in their compact form."""
    return folder_from("GEOMOL_DATA", "public benchmark sets")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu"):
            # PyTorch's compiler advises, once in a process, to compute with fewer digits
            item.add_marker(pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores for float32:UserWarning"))
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(autouse=True)
def process_state_stays_as_it_was() -> Iterator[None]:
    """Nothing process-wide is set by the package, nor by a test that the next one could then depend on."""
    before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
    yield
    after = torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
    assert after == before, "the test or what it ran changed torch's process-wide state"
