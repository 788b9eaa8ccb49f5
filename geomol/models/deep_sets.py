"""Deep Sets: networks that see a structure as a set of points, each of which feels the pool of all."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.models.base import Features, config_of
from geomol.models.plain_inputs import (
    PlainNodeInputs,
    as_features,
    check_outputs,
    claim,
    mlp,
    node_coordinates,
)
from geomol.nn import unit_variance
from geomol.ops import segment_index, segment_max, segment_mean, segment_sum

POOLS = {"sum": segment_sum, "mean": segment_mean, "max": segment_max}
FORMS = ("equivariant", "invariant")
ACTIVATIONS = {"tanh": nn.Tanh, "silu": nn.SiLU}


class DeepSetsLayer(nn.Module):
    """x_i ← σ(Γ x_i − Λ pool_j(x_j) + b), the general linear map that commutes with permutations, over each structure.

    Source: Zaheer et al., NeurIPS 2017 (arXiv:1703.06114), section 3.2 and supplement H.
    """

    def __init__(self, in_channels: int, channels: int, *, pool: str, activation: str) -> None:
        super().__init__()
        self.pool = pool
        self.own = nn.Linear(in_channels, channels)
        self.common = nn.Linear(in_channels, channels, bias=False)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Float[Tensor, "N I"], ptr: Int[Tensor, " P"]) -> Float[Tensor, "N C"]:
        pooled = self.common(POOLS[self.pool](x, ptr))
        out: Tensor = self.activation(self.own(x) - pooled[segment_index(ptr, len(x))])
        return out


class DeepSets(nn.Module):
    """Set network: no edges, no distances, only points and their pool.

    Equivariant form: layers σ(Γ x_i − Λ pool_j(x_j) + b), and y_i = ρ(x_i) for each node. Invariant form: φ is such
    layers without the pool, y = ρ(pool_i φ(x_i)) belongs to the structure, and every node gets an equal share, y / n:
    the sum over nodes (which is what a potential takes) is y.

    Pools: "sum" for extensive quantities (the argument of ρ of two structures is the sum of theirs; y itself is
    additive only for a linear ρ), "mean" for intensive ones, "max" for shapes. The maximum is continuous, but its
    gradient jumps where another point takes the lead.

    Source: Zaheer et al., NeurIPS 2017 (arXiv:1703.06114): theorem 2 and lemma 3. Published point-cloud settings: three
    equivariant layers of 256 channels with tanh and the maximum. Departs from it: outputs per node, and shares.

    Symmetry: permutations; translations with "centred" coordinates; no rotations. Not separable.

    Args:
        elements: atomic numbers that enter as one-hot vectors.
        in_scalars: columns of `graph.node_scalars`.
        in_vectors: vectors of `graph.node_vectors`, which enter as three numbers each.
        out_scalars: scalars per node.
        out_vectors: vectors per node.
        predicts: "displacement", or "position", see `MPNN`.
        coordinates: "centred" (on the centroid of the structure) or "absolute".
        channels: width C.
        num_layers: number of layers.
        pool: "sum", "mean" or "max".
        form: "equivariant" or "invariant", see above.
        activation: σ, "tanh" or "silu".
        cutoff: radius of the graph, whose edges are not read, Å.

    Raises:
        ConfigError: unknown or contradicting settings, or a graph whose inputs do not fit them.
        ModelDomainError: at call, a periodic structure.
    """

    def __init__(
        self,
        *,
        elements: Sequence[int] = (),
        in_scalars: int = 0,
        in_vectors: int = 0,
        out_scalars: int = 1,
        out_vectors: int = 0,
        predicts: str = "displacement",
        coordinates: str = "centred",
        channels: int = 64,
        num_layers: int = 3,
        pool: str = "mean",
        form: str = "equivariant",
        activation: str = "tanh",
        cutoff: float = math.inf,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.cutoff, self.coordinates, self.predicts = float(cutoff), coordinates, predicts
        self.in_vectors, self.out_scalars, self.out_vectors = in_vectors, out_scalars, out_vectors
        self.pool, self.form = pool, form
        for name, value, known in (
            ("pool", pool, POOLS),
            ("form", form, FORMS),
            ("activation", activation, ACTIVATIONS),
        ):
            if value not in known:
                raise ConfigError(f"unknown {name}", expected=", ".join(known), got=value)
        if coordinates == "relative":
            raise ConfigError("a set has no pairs to be relative to", expected="centred or absolute", got=coordinates)
        check_outputs(predicts, coordinates, out_scalars, out_vectors)
        if predicts == "position" and form == "invariant":
            raise ConfigError('predicts="position" needs form="equivariant"')
        self.symmetry = claim(coordinates, smooth=pool != "max", separable=False)
        self.node_inputs = PlainNodeInputs(elements, in_scalars, in_vectors, coordinates=coordinates, charge=False)
        widths = [self.node_inputs.num_features] + num_layers * [channels]
        self.layers = nn.ModuleList(
            DeepSetsLayer(a, channels, pool=pool, activation=activation)
            if form == "equivariant"
            else nn.Sequential(nn.Linear(a, channels), ACTIVATIONS[activation]())
            for a in widths[:-1]
        )
        self.readout = mlp(widths[-1], channels, out_scalars + 3 * out_vectors)

    def forward(self, graph: Graph) -> Features:
        """Scalars per node, and vectors in the frame of the coordinates."""
        feats: Float[Tensor, "N C"] = self.node_inputs(graph, self.readout[0].weight.dtype)
        if self.form == "invariant":
            for layer in self.layers:
                feats = layer(feats)
            whole = self.readout(POOLS[self.pool](feats, graph.ptr))
            share = whole / graph.ptr.diff().clamp(min=1).to(whole.dtype)[:, None]
            return as_features(share[graph.batch], self.out_scalars)
        for layer in self.layers:
            feats = layer(feats, graph.ptr)
        origin = node_coordinates(graph, self.coordinates) if self.predicts == "position" else None
        return as_features(self.readout(feats), self.out_scalars, origin)

    def calibrate(self, graph: Graph) -> None:
        """Gives the linear layers of an untrained network unit output on a typical batch, see `unit_variance`."""
        unit_variance(self, lambda: self(graph))
