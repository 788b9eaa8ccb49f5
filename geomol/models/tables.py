"""Learned functions of a pair's pose made into tables, for models that are no longer trained."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.models.faenet import FAENet
from geomol.models.faenet_inputs import EdgeEmbedding
from geomol.models.ponita import Ponita, PonitaBlock
from geomol.models.ponita_kernels import LinearKernel, PolynomialBasis, pair_attributes, polynomial_features
from geomol.models.rapidash import Rapidash
from geomol.models.rapidash_kernels import AttributeBasis
from geomol.models.rapidash_scales import parse_edges
from geomol.models.tabulated import Attributes, ConstantKernel, TabulatedBasis, TabulatedEdges, TabulatedKernel
from geomol.ops import SplineGrid

LARGEST_TABLES = 2**27  # numbers in all tables of a model, 512 MiB of them in float32
_POINTS = 8192  # of a table, evaluated at once

M = TypeVar("M", bound=nn.Module)


def tabulate(backbone: nn.Module, spacing: float) -> int:
    """Replaces, in place, learned functions of the distance, or of the lengths along and across each direction, by
    cubic splines.

    | model                          | what becomes a table or a constant                           | variables |
    |--------------------------------|--------------------------------------------------------------|-----------|
    | Ponita, Rapidash, "polynomial" | spatial kernel of every layer, basis network and projection  | 1 or 2    |
    | the same                       | kernel between the directions of the grid: a constant        | 0         |
    | FAENet                         | Linear Gaussians(|r|) of the edges                           | 1         |

    The window at the cutoff stays outside the tables, so that messages vanish there exactly. Splines are twice
    continuously differentiable, so that forces are the exact gradient of the new energy and have a continuous gradient
    themselves. Kernels of Bessel functions and Legendre polynomials are short exact sums already and stay.

    Args:
        backbone: a model, or a symmetriser around one; it cannot be trained any more.
        spacing: largest distance between knots, Å.

    Returns:
        bytes of all tables.

    Raises:
        ConfigError: a model without such functions or with tables already, functions of three variables or without a
            cutoff, or tables of more than 2²⁷ numbers.
    """
    if any(isinstance(m, TabulatedBasis | TabulatedEdges) for m in backbone.modules()):
        raise ConfigError("the kernels of this model are tables already", remedy="begin with the model as it was")
    for module in [m for m in backbone.modules() if isinstance(m, Ponita | Rapidash | FAENet)]:
        if isinstance(module, FAENet):
            _tabulate_edges(module, spacing)
        else:
            _tabulate_kernels(module, spacing)
    tables = [m.table for m in backbone.modules() if isinstance(m, TabulatedKernel | TabulatedEdges)]
    if not tables:
        raise ConfigError(
            "this model has no kernels to tabulate",
            expected='ponita or rapidash with kernels of polynomials ("polynomial"), or faenet',
            got=type(backbone).__name__,
        )
    return sum(table.nbytes for table in tables)


@dataclass(frozen=True)
class _Shared:
    """What all layers of a model build their kernels from."""

    basis: PolynomialBasis
    attributes: Attributes
    cutoff: float
    windowed: bool
    looped: bool  # nodes see themselves

    def grid(self, spacing: float) -> SplineGrid:
        whole, half = (-self.cutoff, self.cutoff), (0.0, self.cutoff)
        return SplineGrid.over([half] if self.basis.num_attributes == 1 else [whole, half], spacing)


def _shared(model: Ponita | Rapidash) -> _Shared | None:
    """None where kernels are short sums already.

    Raises:
        ConfigError: kernels that no table could hold.
    """
    if isinstance(model, Ponita):
        if not isinstance(model.basis, PolynomialBasis):
            return None
        shared = _Shared(model.basis, pair_attributes, model.cutoff, True, True)
        faults = {"orientations of bonds": model.orientations == "bonds", "vectors": model.to_vectors is not None}
    else:
        basis = model.trunk.bases[0]
        if not isinstance(basis, AttributeBasis):
            return None
        cutoff = parse_edges(model.edges[0], model.cutoff).cutoff
        shared = _Shared(basis, model.space.attributes, cutoff, model.envelope, basis.self_loops)
        faults = {
            "several scales": bool(model.ratios),
            "a noise level": model.told,
            "the plane": model.space.base == "R2xS1",
        }
    faults[f"{shared.basis.num_attributes} variables"] = shared.basis.num_attributes > 2
    faults["no cutoff"] = not math.isfinite(shared.cutoff)
    found = [fault for fault, holds in faults.items() if holds]
    if found:
        raise ConfigError(
            "these kernels are not tabulated",
            expected="kernels of one or two lengths in space, at one scale, with a finite cutoff",
            got=", ".join(found),
            remedy="use the model as it is",
        )
    return shared


@torch.no_grad()
def _tabulate_kernels(model: Ponita | Rapidash, spacing: float) -> None:
    shared = _shared(model)
    if shared is None:
        return
    grid, exact = shared.grid(spacing), _in_float64(shared.basis)
    blocks = [module for module in model.modules() if isinstance(module, PonitaBlock)]
    kernels = [_linear(block.spatial) for block in blocks]
    _check_size(grid, kernels)
    for block, linear in zip(blocks, kernels, strict=True):
        block.spatial = _tabulated_kernel(linear, exact, grid, looped=shared.looped)
    if model.grid is not None and exact.fibre is not None:
        directions = model.grid.cpu().double()
        basis = exact.fibre(polynomial_features((directions @ directions.T)[..., None], exact.degree))
        for block in blocks:
            weight = _linear(block.fibre).weight
            block.fibre = ConstantKernel((basis @ weight.cpu().double().T).to(weight))
    new = TabulatedBasis(shared.attributes, cutoff=shared.cutoff, windowed=shared.windowed)
    if isinstance(model, Ponita):
        model.basis = new
    else:
        model.trunk.bases = nn.ModuleList([new])


def _tabulated_kernel(linear: nn.Linear, basis: PolynomialBasis, grid: SplineGrid, *, looped: bool) -> TabulatedKernel:
    weight = linear.weight.cpu().double().T

    def kernel(points: Float[Tensor, "P A"]) -> Float[Tensor, "P C"]:
        rows = [
            basis.spatial(polynomial_features(some, basis.degree)) @ weight for some in torch.split(points, _POINTS)
        ]
        return torch.cat(rows)

    here = kernel(torch.zeros(1, basis.num_attributes, dtype=torch.float64))[0]
    return TabulatedKernel(grid, grid.table(kernel).to(linear.weight), here.to(linear.weight) if looped else None)


@torch.no_grad()
def _tabulate_edges(model: FAENet, spacing: float) -> None:
    if not math.isfinite(model.cutoff):
        raise ConfigError("a table of distances needs a finite cutoff", got=f"cutoff {model.cutoff:g} Å")
    edges, grid = model.edges, SplineGrid.over([(0.0, model.cutoff)], spacing)
    assert isinstance(edges, EdgeEmbedding)
    _check_size(grid, [edges.from_length])
    linear, centres = _in_float64(edges.from_length), edges.centres.cpu().double()
    table = grid.table(lambda r: linear(torch.exp(-0.5 * ((r - centres) / edges.width).square())))
    model.edges = TabulatedEdges(edges, grid, table.to(edges.from_length.weight))


def _linear(kernel: nn.Module | None) -> nn.Linear:
    assert isinstance(kernel, LinearKernel)
    return kernel.linear


def _in_float64(module: M) -> M:
    """A copy: tables are made with all digits, whatever precision they are read in."""
    return copy.deepcopy(module).cpu().double()


def _check_size(grid: SplineGrid, layers: list[nn.Linear]) -> None:
    size = sum(grid.num_rows * layer.out_features for layer in layers)
    if size > LARGEST_TABLES:
        raise ConfigError(
            "tables as fine as this are too large",
            expected=f"at most {LARGEST_TABLES:,} numbers",
            got=f"{size:,} with knots every {grid.spacing:.3g} Å",
            remedy="allow a larger error: geomol.compiled.tabulated(potential, tolerance=…)",
        )
