"""Rapidash: one convolutional architecture with switches for base space, kernel symmetry, inputs and scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.geometry import random_rotations, rotation_about_z
from geomol.graph import Graph
from geomol.models.base import Features, config_of
from geomol.models.plain_inputs import as_features
from geomol.models.ponita import ACTIVATIONS
from geomol.models.rapidash_attributes import Space
from geomol.models.rapidash_inputs import RapidashInputs, breaks_rotation, symmetry_of
from geomol.models.rapidash_kernels import AttributeBasis, DirectionBasis, PoseBasis
from geomol.models.rapidash_scales import (
    Scale,
    build_scales,
    check_flat,
    is_local,
    merged_into,
    parse_edges,
    per_scale,
)
from geomol.models.rapidash_unet import BlockSettings, RapidashUNet


class Rapidash(nn.Module):
    """Separable group convolutions on R³, R³×S² or, in the plane, R²×S¹, with kernels of SE(n) or of T(n).

    PONITA's layers (`geomol.models.ponita`) on the attributes of `Space`, at one scale or in a U-Net over several:
    from each scale to the next, every point sends to the nearest of those that farthest point sampling keeps, by the
    same convolution; on the way up the same edges are used backwards, and the features of the way down are added.

    Source: Vadgama et al., "Probing Equivariance and Symmetry Breaking in Convolutional Networks", NeurIPS 2025
    (arXiv:2501.01999), whose published settings are `basis="polynomial", degree=2, basis_dim=256, basis_hidden=128`
    with 7 layers of 256 channels (QM9). Departures: the envelope multiplies kernels, not attributes, so that messages
    vanish at the cutoff; farthest point sampling starts at the outermost point, not at the first or a random one; in
    the plane the second attribute is the signed coordinate across o; the grid is part of the state; calibration is a
    method; `pre_linear`, which the published code holds without ever applying it, mixes channels before each
    convolution; `basis="radial"`, smooth in every direction, has no counterpart there.

    Symmetry: permutations always, and what kernels and inputs leave of the motions of space, see `symmetry_of`: R³ to
    rounding; with orientations exactly the symmetries of the grid, and other rotations the better the finer it is.
    Mirror images are told apart in the plane alone (or by handed inputs).

    Args:
        elements: atomic numbers, fed as one-hot vectors; may be empty.
        in_scalars: columns of `graph.node_scalars`.
        in_vectors: vectors of `graph.node_vectors`.
        out_scalars: scalars per node.
        out_vectors: vectors per node: (1/O) Σ_o f(o) o, or on R³ three numbers each, where rotations are broken anyway.
        readout: "linear", or "none" for the features themselves, averaged over orientations.
        level: "node": back up to all points; "graph": every point takes over the features of the coarsest point that
            it was merged into, to be pooled outside.
        orientations: "none" (R³), a grid of `geomol.geometry.orientation_grid` (R³×S²), or "circle:O" (R²×S¹; all
            points of a structure at one height z).
        turn_grid: in training, turn the grid at random at each call (in the plane about z), from torch's own random
            numbers: nothing can then be learned of how structures stand to it.
        kernel_group: "SE(n)" or "T(n)".
        coordinates: as inputs: "none", "vectors" from the centroid, "scalars" (as they stand), "centred_scalars".
        vectors_as: whether `node_vectors` enter as "vectors" (v·o) or as three "scalars" each.
        frame: three vectors for every node that say what the pose is: "none", "given" (the last 3 of `node_vectors`,
            always as vectors) or "identity" (the axes of the lab).
        channels: width C, or one for each scale.
        num_layers: blocks, or their number at each scale, 0 for transitions alone; at all but the last as many again on
            the way up.
        edges: "graph", "fc", "knn-k" or "radius-r", or one for each scale ("graph" at the first only).
        ratios: share of the points that the next scale keeps, one for each step down.
        cutoff: of the graph, Å; inf for complete graphs or other `edges`.
        envelope: let kernels vanish at the cutoff or radius.
        self_loops: whether nodes see themselves, at distance 0.
        basis: "polynomial", or "radial": Bessel functions × smooth functions of the direction (one scale, finite
            cutoff).
        degree, basis_dim, basis_hidden: of the polynomial basis: powers 1 to degree + 1, width B, inner width.
        num_radial, num_angular, num_fibre: of the radial basis: functions, degrees in space and on the sphere.
        global_basis: one polynomial basis for all scales instead of one for each.
        last_feature_conditioning: tell kernels the last scalar (the noise level, equal throughout a structure).
        widening: inner width of the pointwise networks, in units of C.
        layer_scale: initial gain of each block (None: no gain).
        pre_linear: see above.
        activation: "gelu" or "silu".
        norm: LayerNorm in each block.

    Raises:
        ConfigError: unknown or contradicting settings, or a graph whose inputs do not fit them.
        ModelDomainError: at call, a periodic structure where coordinates or edges found here have no meaning.
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
        readout: Literal["linear", "none"] = "linear",
        level: Literal["node", "graph"] = "node",
        orientations: str = "icosahedral",
        turn_grid: bool = False,
        kernel_group: str = "SE(n)",
        coordinates: str = "none",
        vectors_as: str = "vectors",
        frame: str = "none",
        channels: int | Sequence[int] = 64,
        num_layers: int | Sequence[int] = 4,
        edges: str | Sequence[str] = "graph",
        ratios: Sequence[float] = (),
        cutoff: float = math.inf,
        envelope: bool = True,
        self_loops: bool = True,
        basis: Literal["polynomial", "radial"] = "polynomial",
        degree: int = 2,
        basis_dim: int = 256,
        basis_hidden: int = 128,
        num_radial: int = 8,
        num_angular: int = 4,
        num_fibre: int = 4,
        global_basis: bool = True,
        last_feature_conditioning: bool = False,
        widening: int = 4,
        layer_scale: float | None = None,
        pre_linear: bool = False,
        activation: str = "gelu",
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.cutoff, self.envelope, self.level = float(cutoff), envelope, level
        self.out_scalars, self.out_vectors, self.told = out_scalars, out_vectors, last_feature_conditioning
        self.ratios = tuple(float(ratio) for ratio in ratios)
        num_scales = len(self.ratios) + 1
        self.edges: tuple[str, ...] = tuple(per_scale("edges", edges, num_scales))
        widths = per_scale("channels", channels, num_scales)
        self.depths = per_scale("num_layers", num_layers, num_scales)
        self.space, grid = Space.of(orientations, kernel_group)
        self.register_buffer("grid", grid)  # float64, so that weights turned to float64 find its symmetries unrounded
        self.turn_grid = turn_grid
        self._check(readout, basis, activation, in_scalars)
        self.inputs = RapidashInputs(
            elements,
            in_scalars,
            in_vectors,
            coordinates=coordinates,
            vectors_as=vectors_as,
            frame=frame,
            on_grid=grid is not None,
        )
        self.symmetry = symmetry_of(self.space, self.inputs, self.edges, cutoff=self.cutoff, envelope=envelope)
        if grid is None and out_vectors and not breaks_rotation(self.space, self.inputs):
            raise ConfigError(
                "invariant features on R³ hold no vectors",
                got=f"out_vectors={out_vectors}",
                remedy='choose a grid of orientations or kernel_group="T(n)"',
            )

        def new_basis() -> PoseBasis:
            if basis == "radial":
                return DirectionBasis(
                    self.space,
                    num_radial=num_radial,
                    num_angular=num_angular,
                    num_fibre=num_fibre,
                    cutoff=parse_edges(self.edges[0], self.cutoff).cutoff,
                    self_loops=self_loops,
                )
            return AttributeBasis(
                self.space,
                hidden=basis_hidden,
                basis_dim=basis_dim,
                degree=degree,
                told=self.told,
                self_loops=self_loops,
            )

        num_inputs = self.inputs.num_scalars + self.inputs.num_vectors
        self.embed = nn.Linear(num_inputs, widths[0], bias=False)
        self.trunk = RapidashUNet(
            new_basis,
            widths,
            self.depths,
            comes_back=level == "node",
            settings=BlockSettings(widening, layer_scale, activation, norm, pre_linear),
            global_basis=global_basis,
            envelope=envelope,
        )
        self.num_features = self.trunk.num_features
        numbers = out_scalars + (3 if grid is None else 1) * out_vectors
        self.readout = nn.Linear(self.num_features, numbers) if readout == "linear" else None

    def _check(self, readout: str, basis: str, activation: str, in_scalars: int) -> None:
        """Settings that contradict each other, found before any parameter is made."""
        if not self.cutoff > 0:
            raise ConfigError("cutoff must be positive (Å)", got=str(self.cutoff))
        for name, value, known in (
            ("readout", readout, ("linear", "none")),
            ("level", self.level, ("node", "graph")),
            ("basis", basis, ("polynomial", "radial")),
            ("activation", activation, tuple(ACTIVATIONS)),
        ):
            if value not in known:
                raise ConfigError(f"unknown {name}", expected=" or ".join(known), got=str(value))
        if any(not 0 < ratio <= 1 for ratio in self.ratios):
            raise ConfigError("ratios must be above 0 and at most 1", got=str(list(self.ratios)))
        if "graph" in self.edges[1:]:
            raise ConfigError('edges="graph" exist at the first scale only', got=str(list(self.edges)))
        if basis == "radial" and (self.ratios or not is_local(self.edges[0], self.cutoff) or self.told):
            raise ConfigError(
                'basis="radial" needs one scale, a finite cutoff, and no noise level',
                got=f"edges={list(self.edges)}, cutoff={self.cutoff:g}",
                remedy='use basis="polynomial"',
            )
        if basis == "radial" and not self.envelope:
            raise ConfigError('basis="radial" vanishes at the cutoff in any case', remedy="leave envelope=True")
        if self.turn_grid and self.grid is None:
            raise ConfigError("there is no grid to turn", got='orientations="none"', remedy="leave turn_grid=False")
        if self.told and in_scalars < 1:
            raise ConfigError("last_feature_conditioning reads the last of in_scalars columns", got="in_scalars=0")

    @property
    def reads_edges(self) -> bool:
        """Whether the edges of the graph are used; otherwise it need not have any."""
        return bool(self.edges[0] == "graph")

    def directions(self, dtype: torch.dtype) -> Float[Tensor, "O 3"] | None:
        """The grid; with `turn_grid`, in training, turned at random."""
        if self.grid is None:
            return None
        if not (self.turn_grid and self.training):
            return self.grid.to(dtype)
        if self.space.base == "R2xS1":
            turn = rotation_about_z(2 * math.pi * torch.rand((), dtype=torch.float64))
        else:
            turn = random_rotations(1)[0]
        return (self.grid @ turn.T.to(self.grid)).to(dtype)

    def lift(self, graph: Graph, ori: Float[Tensor, "O 3"] | None) -> Float[Tensor, "N *O C"]:
        """Embedding of scalars, the same at every orientation, and of vectors as v·o."""
        weight: Tensor = self.embed.weight
        scalars, vectors = self.inputs(graph, weight.dtype)
        x: Tensor = scalars @ weight[:, : scalars.shape[1]].T
        if ori is None:
            return x
        x = x[:, None].expand(-1, len(ori), -1)
        if vectors.shape[1]:
            along = torch.einsum("nvd,od->nov", vectors, ori)
            x = x + along @ weight[:, scalars.shape[1] :].T
        return x

    def hidden(self, graph: Graph, *, calibrate: bool = False) -> Float[Tensor, "M *O C"]:
        """Features before the readout, of all points, or for `level="graph"` of the coarsest ones; on a grid with an
        axis of orientations.
        """
        ori = self.directions(self.embed.weight.dtype)
        return self._hidden(graph, self._scales(graph), ori, calibrate=calibrate)

    def _scales(self, graph: Graph) -> list[Scale]:
        dtype: torch.dtype = self.embed.weight.dtype
        scales = build_scales(graph, self.edges, self.ratios, self.cutoff, dtype, self.depths)
        if self.space.base == "R2xS1":
            check_flat(scales)
        return scales

    def _hidden(
        self, graph: Graph, scales: list[Scale], ori: Float[Tensor, "O 3"] | None, *, calibrate: bool = False
    ) -> Float[Tensor, "M *O C"]:
        x = self.lift(graph, ori)
        level = None
        if self.told:
            assert graph.node_scalars is not None
            level = graph.node_scalars[:, -1:].to(x.dtype)
        out: Tensor = self.trunk(x, scales, ori, level, calibrate=calibrate)
        return out

    def forward(self, graph: Graph) -> Features:
        """Scalars and vectors per node."""
        scales, ori = self._scales(graph), self.directions(self.embed.weight.dtype)
        found = self._read(self._hidden(graph, scales, ori), ori)
        if self.level == "node" or len(scales) == 1:
            return found
        owner = merged_into(scales)
        return Features(found.scalars[owner], None if found.vectors is None else found.vectors[owner])

    def _read(self, x: Float[Tensor, "M *O C"], ori: Float[Tensor, "O 3"] | None) -> Features:
        if self.readout is None:
            return Features(x if ori is None else x.mean(1))
        read = self.readout(x)
        if ori is None:
            return as_features(read, self.out_scalars)
        scalars, along = torch.tensor_split(read, [self.out_scalars], dim=-1)
        vectors = torch.einsum("nov,od->nvd", along, ori.to(along.dtype)) / len(ori)
        return Features(scalars.mean(1), vectors if self.out_vectors else None)

    @torch.no_grad()
    def calibrate(self, graph: Graph) -> None:
        """Scales the kernels of an untrained network on a typical batch; call once, before training."""
        self.hidden(graph, calibrate=True)
