"""PONITA: separable group convolution on positions and orientations, R³×S², and its position-only form PNITA on R³.

Source: Bekkers, Vadgama, Hesselink, van der Linden, Romero, "Fast, Expressive SE(n) Equivariant Networks through
Weight-Sharing in Position-Orientation Space", ICLR 2024 (arXiv:2310.02970). A feature map f(x, o) lives on the nodes
and on a grid of directions o; the kernel is k_spatial(r·o, |r − (r·o)o|) · k_fibre(o·o′) · k_channel, applied in
sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.geometry import orientation_grid
from geomol.graph import Graph, edge_vectors
from geomol.models.base import Features, Symmetry, config_of
from geomol.models.pair_vectors import PairVectors, vector_attributes
from geomol.models.ponita_bonds import bond_attributes, lift_to_bonds, mean_over_bonds
from geomol.models.ponita_kernels import (
    Basis,
    BasisValues,
    FibreKernel,
    Kernel,
    LegendreBasis,
    PolynomialBasis,
)
from geomol.nn import LayerNorm, NodeInputs, safe_norm
from geomol.ops import linear_of_rows, mix_orientations

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "silu": nn.SiLU}


class PonitaBlock(nn.Module):
    """Convolution over neighbours, then over orientations, then a pointwise network with residual (ConvNeXt form)."""

    def __init__(
        self,
        *,
        channels: int,
        basis: Basis,
        widening: int,
        layer_scale: float | None,
        activation: str,
        norm: bool,
    ) -> None:
        super().__init__()
        self.spatial: Kernel = basis.spatial_kernel(channels)
        self.fibre: FibreKernel | None = basis.fibre_kernel(channels)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.norm = LayerNorm(channels) if norm else nn.Identity()
        self.linear_1 = nn.Linear(channels, widening * channels)
        self.act = ACTIVATIONS[activation]()
        self.linear_2 = nn.Linear(widening * channels, channels)
        self.layer_scale = None if layer_scale is None else nn.Parameter(torch.full((channels,), layer_scale))

    def convolve(self, x: Float[Tensor, "N *O C"], basis: BasisValues, graph: Graph) -> Float[Tensor, "N *O C"]:
        """Σ over neighbours with the spatial kernel; every node is its own neighbour at distance 0."""
        return self.spatial.convolve(x, basis, graph)

    def mix_orientations(self, x: Float[Tensor, "N *O C"], basis: BasisValues) -> Float[Tensor, "N *O C"]:
        """(1/O) Σ_o x(o) k_fibre(p·o); nothing to mix without orientations."""
        if self.fibre is None:
            return x
        kernel = self.fibre.on_fibre(basis)  # (P, O, C)
        return mix_orientations(x, kernel / kernel.shape[1])

    def forward(self, x: Float[Tensor, "N *O C"], basis: BasisValues, graph: Graph) -> Float[Tensor, "N *O C"]:
        y = self.mix_orientations(self.convolve(x, basis, graph), basis)
        return x + self.pointwise(y)

    def pointwise(self, y: Float[Tensor, "N *O C"]) -> Float[Tensor, "N *O D"]:
        """What each orientation of each node goes through by itself: bias, LayerNorm, a network of two layers, gain."""
        weight: Tensor = self.linear_2.weight
        bias: Tensor = self.linear_2.bias
        if self.layer_scale is not None:
            weight, bias = self.layer_scale[:, None] * weight, self.layer_scale * bias
        return linear_of_rows(self._hidden, y, weight, bias)

    def _hidden(self, y: Float[Tensor, "N *O C"]) -> Float[Tensor, "N *O H"]:
        hidden: Tensor = self.act(self.linear_1(self.norm(y + self.bias)))
        return hidden

    @torch.no_grad()
    def calibrate(self, x: Float[Tensor, "N *O C"], basis: BasisValues, graph: Graph) -> None:
        """Scales both kernels so that each convolution keeps the standard deviation of its input."""
        self.spatial.rescale(x.std() / self.convolve(x, basis, graph).std())
        if self.fibre is not None:
            y = self.convolve(x, basis, graph)
            self.fibre.rescale(y.std() / self.mix_orientations(y, basis).std())


class Ponita(nn.Module):
    """R³×S² network on a grid of orientations, PNITA on R³ without, or a cloud of bonds (each bond an orientation).

    Scalars are copied to all orientations, a vector v enters as v·o; scalars are read out as the mean over orientations
    and vectors as (1/O) Σ_o f(o) o. Without orientations vectors enter by their differences along edges and are read
    out as `PairVectors`, which the original does not have. Nodes always see themselves (distance 0), as the original's
    self loops.

    Departures from the source: the grid is part of the state (the original draws it anew); calibration is a method,
    called once before training, not a side effect of the first forward; graph-level vectors are sums; with
    kernel="legendre" (the default, for potentials) the spatial kernel is a short sum radial_k(r) × P_l(cos ∠(r, o)), ≤
    32 wide and smooth in every direction, where the paper's polynomial kernel has a kink in the force where an edge is
    parallel to a grid direction.

    Symmetry: translations and permutations exact; rotations and reflections exact for orientations "none" and "bonds",
    otherwise for the symmetry group of the grid, and approximate for other rotations. Mirror images are never told
    apart.

    Args:
        elements: atomic numbers, fed as one-hot vectors; may be empty.
        in_scalars: columns of `graph.node_scalars`.
        in_vectors: vectors in `graph.node_vectors`.
        out_scalars: invariants per node.
        out_vectors: vectors per node.
        channels: width C.
        num_layers: blocks.
        orientations: a grid of `geomol.geometry.orientation_grid`, "none" (PNITA) or "bonds" (point cloud of bonds).
        kernel: "legendre", or "polynomial" as published.
        cutoff: Å; kernels vanish there smoothly. inf: no window (polynomial kernel only), for complete graphs.
        num_radial, num_angular, num_fibre: size of the Legendre basis: radial functions, degrees in space, degrees on
            the sphere.
        basis_dim, degree: width B and degree of the polynomial basis.
        widening: inner width of the pointwise network, in units of C.
        layer_scale: initial gain of each block (None: no gain).
        readout_every_block: mean of one readout per block instead of the last only.
        activation: "gelu" or "silu".
        norm: LayerNorm in each block.

    Raises:
        ConfigError: an impossible combination of the above.
    """

    grid: Tensor | None

    def __init__(
        self,
        *,
        elements: Sequence[int] = (),
        in_scalars: int = 0,
        in_vectors: int = 0,
        out_scalars: int = 1,
        out_vectors: int = 0,
        channels: int = 64,
        num_layers: int = 4,
        orientations: str = "icosahedral",
        kernel: Literal["legendre", "polynomial"] = "legendre",
        cutoff: float = 6.0,
        num_radial: int = 8,
        num_angular: int = 4,
        num_fibre: int = 4,
        basis_dim: int = 256,
        degree: int = 3,
        widening: int = 4,
        layer_scale: float | None = None,
        readout_every_block: bool = True,
        activation: str = "gelu",
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        if activation not in ACTIVATIONS:
            raise ConfigError(f'unknown activation "{activation}"', expected=f"one of {sorted(ACTIVATIONS)}")
        if orientations == "none" and in_vectors and kernel != "polynomial":
            raise ConfigError('orientations="none" reads vectors with kernel="polynomial" alone', got=kernel)
        if not cutoff > 0:
            raise ConfigError("cutoff must be positive (Å)", got=str(cutoff))
        self.cutoff, self.orientations = float(cutoff), orientations
        self.in_vectors, self.out_scalars, self.out_vectors = in_vectors, out_scalars, out_vectors
        self.symmetry = Symmetry(
            group="E(3)",
            exact=orientations in ("none", "bonds"),
            smooth=orientations != "bonds",
            separable=math.isfinite(self.cutoff),
        )
        grid = None if orientations in ("none", "bonds") else orientation_grid(orientations)
        self.register_buffer("grid", None if grid is None else grid.to(torch.get_default_dtype()))
        self.basis: nn.Module
        if kernel == "polynomial":
            num_attributes = {"none": 1 + 2 * in_vectors, "bonds": 3}.get(orientations, 2)
            self.basis = PolynomialBasis(
                num_attributes,
                hidden=channels,
                basis_dim=basis_dim,
                degree=degree,
                cutoff=cutoff,
                has_fibre=grid is not None,
            )
        elif kernel == "legendre" and orientations != "bonds":
            num_angular, num_fibre = (1, 0) if grid is None else (num_angular, num_fibre)
            self.basis = LegendreBasis(num_radial, num_angular, num_fibre, cutoff=cutoff)
        else:
            raise ConfigError(f'kernel="{kernel}" with orientations="{orientations}" does not exist')
        self.inputs = NodeInputs(elements, in_scalars)
        along = 0 if orientations == "none" else in_vectors
        if self.inputs.num_features + in_vectors == 0:
            raise ConfigError("a PONITA needs node inputs", remedy="give elements, in_scalars or in_vectors")
        self.embed = nn.Linear(self.inputs.num_features + along, channels, bias=False)
        self.blocks = nn.ModuleList(
            PonitaBlock(
                channels=channels,
                basis=self.basis,
                widening=widening,
                layer_scale=layer_scale,
                activation=activation,
                norm=norm,
            )
            for _ in range(num_layers)
        )
        num_readouts = num_layers if readout_every_block else 1
        along = 0 if orientations == "none" else out_vectors
        self.readouts = nn.ModuleList(nn.Linear(channels, out_scalars + along) for _ in range(num_readouts))
        self.to_vectors = (
            PairVectors(self.basis, channels, in_vectors=in_vectors, out_vectors=out_vectors)
            if orientations == "none" and out_vectors
            else None
        )

    def lift(self, graph: Graph, ori: Float[Tensor, "*O 3"] | None) -> Float[Tensor, "N *O C"]:
        """Embedding of scalars, the same at every orientation, and of vectors as v·o."""
        weight: Tensor = self.embed.weight
        scalars = self.inputs(graph, weight.dtype)
        num_scalars = scalars.shape[1]
        x: Tensor = scalars @ weight[:, :num_scalars].T
        got = 0 if graph.node_vectors is None else graph.node_vectors.shape[1]
        if got != self.in_vectors:
            raise ConfigError("`node_vectors` does not fit the model", expected=f"{self.in_vectors}", got=str(got))
        if ori is None:
            return x
        x = x[:, None, :].expand(-1, ori.shape[0], -1)
        if graph.node_vectors is not None:
            along = torch.einsum("nvd,od->nov", graph.node_vectors.to(weight.dtype), ori)
            x = x + along @ weight[:, num_scalars:].T
        return x

    def hidden(self, graph: Graph, *, calibrate: bool = False) -> list[Tensor]:
        """Features after each block: (N, O, C) on a grid, (N, C) without orientations, (M, C) on M bonds."""
        return self._blocks(*self._lifted(graph), calibrate=calibrate)

    def _lifted(self, graph: Graph) -> tuple[Tensor, BasisValues, Graph]:
        """First features, basis functions, and the graph on which they live."""
        if self.orientations != "bonds":
            x = self.lift(graph, self.grid)
            if self.grid is None and self.in_vectors and isinstance(self.basis, PolynomialBasis):
                pairs = vector_attributes(graph, x.dtype)
                return x, self.basis.of_attributes(pairs, pairs[:, 0], on_itself=True), graph
            return x, self.basis(edge_vectors(graph, x.dtype), self.grid), graph
        lifted, ori, atom_of = lift_to_bonds(graph, self.embed.weight.dtype)
        x = self.lift_bonds(graph, ori, atom_of)
        vec = edge_vectors(lifted, x.dtype)
        assert isinstance(self.basis, PolynomialBasis)
        return x, self.basis.of_attributes(bond_attributes(lifted, ori, vec), safe_norm(vec)), lifted

    def _blocks(self, x: Tensor, basis: BasisValues, graph: Graph, *, calibrate: bool = False) -> list[Tensor]:
        states = []
        for block in self.blocks:
            if calibrate:
                assert isinstance(block, PonitaBlock)
                block.calibrate(x, basis, graph)
            x = block(x, basis, graph)
            states.append(x)
        return states

    def lift_bonds(self, graph: Graph, ori: Float[Tensor, "M 3"], atom_of: Tensor) -> Float[Tensor, "M C"]:
        """Embedding on a cloud of bonds: each carries its atom's scalars, and v·o along its own direction."""
        weight = self.embed.weight
        parts = [self.inputs(graph, weight.dtype)[atom_of]]
        if graph.node_vectors is not None:
            parts.append(torch.einsum("nvd,nd->nv", graph.node_vectors.to(weight.dtype)[atom_of], ori))
        return torch.cat(parts, dim=1) @ weight.T

    def forward(self, graph: Graph) -> Features:
        x, basis, points = self._lifted(graph)
        states = self._blocks(x, basis, points)[-len(self.readouts) :]
        read = torch.stack([r(x) for r, x in zip(self.readouts, states, strict=True)]).mean(0)
        scalars, along = torch.tensor_split(read, [self.out_scalars], dim=-1)
        if self.orientations == "none":
            return Features(scalars, None if self.to_vectors is None else self.to_vectors(states[-1], basis, graph))
        if self.orientations == "bonds":
            vec = edge_vectors(graph, read.dtype)
            vectors = along[..., None] * (vec / safe_norm(vec)[:, None])[:, None, :]
            return Features(mean_over_bonds(scalars, graph), mean_over_bonds(vectors, graph))
        assert self.grid is not None
        vectors = torch.einsum("nov,od->nvd", along, self.grid) / self.grid.shape[0]
        return Features(scalars.mean(1), vectors if self.out_vectors else None)

    @torch.no_grad()
    def calibrate(self, graph: Graph) -> None:
        """Scales the kernels of an untrained network on a typical batch; call once, before training (paper's code,
        first step).
        """
        self.hidden(graph, calibrate=True)
