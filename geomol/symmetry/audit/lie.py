"""The Lie derivative of a model: how its output departs from equivariance under an infinitesimal motion.

    L_A f(x) = d/dt ρ(g_t)⁻¹ f(g_t·x) at t = 0 = J_f(x)[A·x] − dρ(A) f(x),   LEE(f) = E_x Σ_A ‖L_A f(x)‖² / dim

Source: Gruver, Finzi, Goldblum, Wilson, "The Lie Derivative for Measuring Learned Equivariance" (arXiv:2210.02984);
the generators are those of motions of space. It is blind to reflections, permutations and jumps: see `finite` and
`jumps` for these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from geomol.errors import GeomolError
from geomol.graph import Graph
from geomol.ops import segment_mean
from geomol.symmetry.actions import Kind, flow, tangent_of_target
from geomol.symmetry.audit.model import Model, sample_norms
from geomol.symmetry.groups import Generator, rotation_generators, scale_generator, translation_generators

METHODS = ("forward", "double backward", "finite differences")
STEP = 1e-3  # of the fourth-order difference: truncation and rounding are both about 1e-12 in float64
_AGREEMENT = 1e-3  # relative; a method that drops a path is wrong by order one

Path = Callable[[Tensor], Graph]
"""The structures at the (zero-dimensional) parameter t of a path."""


@dataclass(frozen=True, eq=False)
class LieDerivative:
    """L_A f of one output along one generator.

    Attributes:
        output, generator: names.
        value: L_A f(x), one row per node or structure.
        rms: root mean square over structures and components, in the output's unit per Å or radian.
        worst: largest length per structure.
    """

    output: str
    generator: Generator
    value: Float[Tensor, "R *F"]
    rms: float
    worst: float


def centres(graph: Graph) -> Float[Tensor, "G 3"]:
    """The points that structures are turned about: their centroids, so that turning moves nothing as a whole."""
    return segment_mean(graph.pos.detach(), graph.ptr)


def derivative(model: Model, path: Path, names: Mapping[str, Kind], *, method: str, at: Tensor) -> dict[str, Tensor]:
    """d/dt of the model's outputs along a path, at t = 0.

    Args:
        model: may differentiate within itself, if it keeps the result differentiable.
        path: structures at t.
        names: outputs wanted.
        method: of `METHODS`; only "finite differences" works for every model.
        at: any tensor of the precision and device of t.
    """
    if method == "forward":
        return _forward(model, path, names, at)
    if method == "double backward":
        return _double_backward(model, path, names, at)
    return _differences(model, path, names, at, STEP)


def choose_method(model: Model, graph: Graph, kinds: Mapping[str, Kind]) -> str:
    """The first of `METHODS` that agrees with finite differences along a random displacement.

    Neither of the exact ones can be trusted unseen: operators without a forward rule drop their tangent in silence, a
    model that detaches its result has no derivative at all, and fused operators stop at the second (`GeomolError`).
    """
    rng = torch.Generator().manual_seed(0)
    toward = torch.randn(graph.pos.shape, generator=rng, dtype=torch.float64).to(graph.pos)

    def path(t: Tensor) -> Graph:
        return graph.replace(pos=graph.pos + t * toward)

    coarse, fine = (_differences(model, path, kinds, graph.pos, step) for step in (2 * STEP, STEP))
    for method in METHODS[:2]:
        try:
            found = derivative(model, path, kinds, method=method, at=graph.pos)
        except (GeomolError, NotImplementedError, RuntimeError):
            continue
        if all(_agree(found[name], fine[name], coarse[name]) for name in kinds):
            return method
    return METHODS[2]


def _agree(found: Tensor, fine: Tensor, coarse: Tensor) -> bool:
    doubt = 3 * float((fine - coarse).abs().max())
    difference = (found - fine).abs().max()
    return bool(difference <= _AGREEMENT * fine.abs().max() + min(doubt, 0.1 * float(fine.abs().max())) + 1e-9)


def lie_derivatives(
    model: Model, graph: Graph, kinds: Mapping[str, Kind], *, method: str | None = None, scale: bool = False
) -> tuple[list[LieDerivative], str]:
    """L_A f of every output along every generator of E(3), and the method used.

    Args:
        model, graph, kinds: what to differentiate, where, and how its outputs transform.
        method: of `METHODS`; the best that works by default.
        scale: also along x → x, which is a symmetry of nothing; for energies it is the trace of the virial.
    """
    method = choose_method(model, graph, kinds) if method is None else method
    centre = centres(graph)
    found = []
    for generator in (*translation_generators(), *rotation_generators(), *([scale_generator()] if scale else [])):
        found += _along(generator, model, graph, kinds, method, centre)
    return found, method


def _along(
    generator: Generator, model: Model, graph: Graph, kinds: Mapping[str, Kind], method: str, centre: Tensor
) -> list[LieDerivative]:
    rate = derivative(model, lambda t: flow(generator, graph, centre, t), kinds, method=method, at=graph.pos)
    value = {name: tensor.detach() for name, tensor in model(graph).items() if name in kinds}
    found = []
    for name, kind in kinds.items():
        lie = rate[name] - tangent_of_target(kind, value[name], generator, graph, centre)
        rms = float(lie.square().mean().sqrt())
        found.append(LieDerivative(name, generator, lie, rms, float(sample_norms(kind, lie[None], graph).max())))
    return found


def lee(found: list[LieDerivative], output: str, graph: Graph, kind: Kind) -> float:
    """LEE = E_x Σ_A ‖L_A f(x)‖² / dim over translations and rotations (per Å² and per radian²)."""
    total = 0.0
    for entry in found:
        if entry.output == output and entry.generator.kind != "scale":
            squares = entry.value.square().reshape(len(entry.value), -1).mean(1)
            total += float((squares if kind.per == "structure" else segment_mean(squares, graph.ptr)).mean())
    return total


def _forward(model: Model, path: Path, names: Mapping[str, Kind], at: Tensor) -> dict[str, Tensor]:
    with forward_ad.dual_level():
        t = forward_ad.make_dual(at.new_zeros(()), at.new_ones(()))  # type: ignore[no-untyped-call]
        out = model(path(t))
        found = {}
        for name in names:
            value, tangent = forward_ad.unpack_dual(out[name])  # type: ignore[no-untyped-call]
            found[name] = torch.zeros_like(value) if tangent is None else tangent.detach()
    return {name: value.detach() for name, value in found.items()}


def _double_backward(model: Model, path: Path, names: Mapping[str, Kind], at: Tensor) -> dict[str, Tensor]:
    """J v by differentiating u ↦ uᵀ J v, twice in reverse."""
    with torch.enable_grad():
        t = at.new_zeros(()).requires_grad_()
        out = model(path(t))
        found = {}
        for name in names:
            if not out[name].requires_grad:
                found[name] = torch.zeros_like(out[name])
                continue
            u = torch.zeros_like(out[name], requires_grad=True)
            (slope,) = torch.autograd.grad(
                out[name], t, u, create_graph=True, allow_unused=True, materialize_grads=True
            )
            if not slope.requires_grad:
                found[name] = torch.zeros_like(out[name])
                continue
            (rate,) = torch.autograd.grad(slope, u, retain_graph=True, allow_unused=True, materialize_grads=True)
            found[name] = rate.detach()
    return found


def _differences(model: Model, path: Path, names: Mapping[str, Kind], at: Tensor, step: float) -> dict[str, Tensor]:
    """(8 (f₊ − f₋) − (f₊₊ − f₋₋)) / 12 h: error h⁴."""
    f = []
    for k in (1, -1, 2, -2):
        out = model(path(at.new_full((), k * step)))
        f.append({name: out[name].detach() for name in names})
    return {name: (8 * (f[0][name] - f[1][name]) - (f[2][name] - f[3][name])) / (12 * step) for name in names}
