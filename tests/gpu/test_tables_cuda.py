"""The mixing of orientations, and kernels read from tables, on a CUDA device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geomol.checks import disordered_molecules
from geomol.compiled import tabulated
from geomol.md import GeomolCalculator
from geomol.models import Ponita
from geomol.potential import Potential

pytestmark = pytest.mark.gpu


def test_operators_of_mixing_are_registered_as_pytorch_wants_them() -> None:
    """Their results are contiguous, as they are said to be: compiled code reads them so."""
    x, kernel, y = (torch.randn(*shape, device="cuda") for shape in ((9, 12, 16), (12, 12, 16), (9, 12, 16)))
    own = torch.ops.geomol
    for operator, a, b in ((own.mix_orientations, x, kernel), (own.orientation_products, y, x)):
        torch.library.opcheck(operator.default, (a.requires_grad_(), b.requires_grad_()))
        assert operator(a, b).is_contiguous()


@pytest.mark.parametrize("compile", [False, True])
def test_tables_give_the_forces_of_the_cpu(compile: bool) -> None:
    torch.manual_seed(0)
    backbone = Ponita(
        elements=[1, 6, 7, 8], channels=16, num_layers=2, kernel="polynomial", basis_dim=16, orientations="octahedral"
    )
    plain = Potential(backbone, elements=[1, 6, 7, 8], e0=[0.0] * 4)
    there = GeomolCalculator(plain, device="cuda", tabulate=True, compile=compile)
    here = GeomolCalculator(tabulated(plain))
    for atoms in disordered_molecules(3):
        expected = here.get_forces(atoms)
        np.testing.assert_allclose(there.get_forces(atoms), expected, atol=1e-4 * max(1.0, np.abs(expected).max()))
