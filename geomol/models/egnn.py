"""EGNN: messages from distances, features that do not rotate, positions that do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph, edge_vectors
from geomol.models.base import Features, Symmetry, config_of
from geomol.models.egnn_layer import SCALINGS, EdgeState, EGNNLayer
from geomol.nn import BesselBasis, NodeInputs, polynomial_envelope, unit_variance
from geomol.ops import gather_receivers, gather_senders, segment_sum

READOUTS = ("mlp", "linear", "none")

EDGE_INPUTS = ("charge_product", "squared_distance")
_TINY_SQUARE = 1e-16  # Å², under the root: a finite gradient for coincident points, 5e-17 Å at a distance of 1 Å


class EGNN(nn.Module):
    """E(n)-equivariant graph network: invariant node features, and optionally moving positions.

        m_ij = φ_e(h_i, h_j, |x_i − x_j|², a_ij)      h_i ← h_i + φ_h(h_i, Σ_j m_ij)
        x_i ← x_i + C Σ_j (x_i − x_j) φ_x(m_ij), C = 1 / number of neighbours
        velocity form: x_i ← x_i + v_i, v_i = φ_v(h_i) v_i⁰ + C Σ_j (x_i − x_j) φ_x(m_ij)

    Source: Satorras, Hoogeboom, Welling, ICML 2021 (arXiv:2102.09844), eqs. 3-8; details as in the authors' code.

    Departs from it: (1) `envelope`: every message is multiplied by a polynomial that vanishes at the cutoff, and
    positions move by the sum over neighbours instead of the mean; without this, energies jump when an atom crosses the
    cutoff, so potentials must use it. (2) Bessel functions may replace the squared distance. (3) Moves are not clipped:
    clipping components at ±100 is not equivariant. (4) The positions of the graph are never overwritten.

    Symmetry: scalars invariant, vectors equivariant under E(3), exactly; permutation equivariant.

    The published settings are `cutoff=inf, envelope=False, num_radial=0`, with `update_pos=True, readout="linear"`
    (plain), `update_pos=True, in_vectors=1, speed_input=True, edge_inputs=EDGE_INPUTS, in_scalars=1, readout="none"`
    (n-body), and `attention=True, readout="none"` followed by `PooledReadout` (QM9).

    Args:
        elements: atomic numbers that enter as one-hot vectors.
        in_scalars: columns of `graph.node_scalars`; with "charge_product" the last is the charge and enters edges only.
        in_vectors: 1 for the velocity form, which reads velocities from `graph.node_vectors[:, 0]`; 0 otherwise.
        out_scalars: scalars per node (not used when `readout` is "none").
        out_vectors: 0; 1: displacement; 2 (velocity form): displacement and velocity after the last layer.
        channels: width C.
        num_layers: rounds of messages.
        cutoff: radius of the graph, Å; inf for complete or given graphs.
        envelope: smooth cutoff, see above.
        num_radial: Bessel functions in place of the squared distance; 0 keeps the squared distance.
        message_scale: constant factor on every message with `envelope`, such as 1/√(mean number of neighbours).
        update_pos: whether nodes move.
        scaling: "none"; "normalize" divides differences by the (detached) distance + 1e-8, "norm_diff" by distance + 1.
        tanh: bounds φ_x by ±1.
        attention: gate in (0, 1) on each message (eq. 8).
        residual: whether features are added to (True) or replaced.
        node_attrs: feed the node inputs to every node network again.
        speed_input: the speed |v| as a further node input (velocity form).
        edge_inputs: of "charge_product" (q_i q_j) and "squared_distance" (of the starting positions), in this order.
        in_edge_scalars: number of given edge attributes, the `edge_scalars` of `forward`.
        readout: "mlp" (Linear SiLU Linear), "linear", or "none" for the features themselves.

    Raises:
        ConfigError: settings that contradict each other, or a graph whose inputs do not fit them.
    """

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
        cutoff: float = 5.0,
        envelope: bool = True,
        num_radial: int = 8,
        message_scale: float = 1.0,
        update_pos: bool = False,
        scaling: str = "none",
        tanh: bool = False,
        attention: bool = False,
        residual: bool = True,
        node_attrs: bool = False,
        speed_input: bool = False,
        edge_inputs: Sequence[str] = (),
        in_edge_scalars: int = 0,
        readout: str = "mlp",
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.cutoff = float(cutoff)
        self.in_vectors, self.out_vectors, self.in_edge_scalars = in_vectors, out_vectors, in_edge_scalars
        self.envelope, self.message_scale = envelope, message_scale
        self.update_pos, self.speed_input, self.use_node_attrs = update_pos, speed_input, node_attrs
        self.edge_inputs = tuple(edge_inputs)
        self._check(in_scalars, scaling, readout)
        complete = math.isinf(self.cutoff)
        self.symmetry = Symmetry(group="E(3)", exact=True, smooth=envelope or complete, separable=not complete)
        self.inputs = NodeInputs(elements, in_scalars - ("charge_product" in self.edge_inputs))
        num_inputs = self.inputs.num_features + speed_input
        if num_inputs == 0:
            raise ConfigError("an EGNN needs node inputs", remedy="give elements, in_scalars or speed_input")
        self.basis = BesselBasis(num_radial, self.cutoff) if num_radial else None
        self.embed = nn.Linear(num_inputs, channels)
        self.layers = nn.ModuleList(
            EGNNLayer(
                channels,
                (num_radial or 1) + len(self.edge_inputs) + in_edge_scalars,
                num_node_attrs=num_inputs if node_attrs else 0,
                update_pos=update_pos,
                velocity=in_vectors == 1,
                attention=attention,
                residual=residual,
                tanh=tanh,
                scaling=scaling,
            )
            for _ in range(num_layers)
        )
        self.readout = _readout(readout, channels, out_scalars)
        self.out_scalars = channels if readout == "none" else out_scalars

    def _check(self, in_scalars: int, scaling: str, readout: str) -> None:
        """Settings that contradict each other, found before any parameter is made."""
        if not self.cutoff > 0:
            raise ConfigError("cutoff must be positive (Å)", got=str(self.cutoff))
        if self.envelope and math.isinf(self.cutoff):
            raise ConfigError("the envelope needs a cutoff", remedy="give a cutoff, or envelope=False")
        if scaling not in SCALINGS:
            raise ConfigError("unknown scaling", expected="none, normalize or norm_diff", got=scaling)
        if self.envelope and scaling == "normalize":
            raise ConfigError(
                'scaling "normalize" detaches distances, so forces would not be the gradient of the energy',
                remedy='use "norm_diff" or "none"',
            )
        if readout not in READOUTS:
            raise ConfigError("unknown readout", expected="mlp, linear or none", got=readout)
        if self.in_vectors not in (0, 1) or self.out_vectors not in range(2 + self.in_vectors):
            raise ConfigError("in_vectors is 0 or 1, and out_vectors at most 1 + in_vectors")
        if not self.update_pos and (self.in_vectors or self.out_vectors):
            raise ConfigError("vectors need update_pos=True")
        if self.speed_input and not self.in_vectors:
            raise ConfigError("speed_input needs velocities", remedy="set in_vectors=1")
        if self.edge_inputs not in ((), EDGE_INPUTS, EDGE_INPUTS[:1], EDGE_INPUTS[1:]):
            raise ConfigError(
                "unknown edge_inputs", expected=f"of {EDGE_INPUTS}, in this order", got=str(self.edge_inputs)
            )
        if "charge_product" in self.edge_inputs and in_scalars < 1:
            raise ConfigError("charge_product needs the charge as the last of in_scalars columns", got="in_scalars=0")

    def forward(self, graph: Graph, *, edge_scalars: Float[Tensor, "E A"] | None = None) -> Features:
        """Scalars per node, and displacements (with velocities) where positions are updated.

        Args:
            graph: inputs as declared in the constructor.
            edge_scalars: given edge attributes, such as bond types, in the order of the edges of `graph`.
        """
        given = 0 if edge_scalars is None else edge_scalars.shape[1]
        if given != self.in_edge_scalars:
            raise ConfigError(
                "`edge_scalars` does not fit the model", expected=f"{self.in_edge_scalars} columns", got=str(given)
            )
        got = 0 if graph.node_vectors is None else graph.node_vectors.shape[1]
        if got != self.in_vectors:
            raise ConfigError(
                "`node_vectors` does not fit the model", expected=f"{self.in_vectors} vectors", got=str(got)
            )
        dtype = self.embed.weight.dtype
        vec = edge_vectors(graph, dtype)
        velocity = None if graph.node_vectors is None else graph.node_vectors[:, 0].to(dtype)
        node_inputs = self._node_inputs(graph, velocity, dtype)
        edge_inputs = self._edge_inputs(graph, vec, edge_scalars)
        feats, vectors = self._interact(graph, vec, node_inputs, edge_inputs, velocity)
        return Features(
            self.readout(feats), torch.stack(vectors[: self.out_vectors], dim=1) if self.out_vectors else None
        )

    def calibrate(self, graph: Graph) -> None:
        """Gives the linear layers of an untrained network unit output on a typical batch, see `unit_variance`."""
        unit_variance(self, lambda: self(graph))

    def _node_inputs(self, graph: Graph, velocity: Tensor | None, dtype: torch.dtype) -> Float[Tensor, "N S"]:
        parts = []
        if "charge_product" in self.edge_inputs and graph.node_scalars is not None:
            graph = graph.replace(node_scalars=graph.node_scalars[:, :-1])
        if self.inputs.num_features:
            parts.append(self.inputs(graph, dtype))
        if velocity is not None and self.speed_input:
            parts.append((velocity.square().sum(1, keepdim=True) + _TINY_SQUARE).sqrt())
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _edge_inputs(self, graph: Graph, vec: Tensor, given: Tensor | None) -> list[Float[Tensor, "E _"]]:
        parts = []
        if "charge_product" in self.edge_inputs:
            if graph.node_scalars is None:
                raise ConfigError(
                    "`node_scalars` does not fit the model", expected="the charge as last column", got="none"
                )
            charge = graph.node_scalars[:, -1:].to(vec.dtype)
            parts.append(gather_senders(charge, graph) * gather_receivers(charge, graph))
        if "squared_distance" in self.edge_inputs:
            parts.append(vec.square().sum(1, keepdim=True))
        if given is not None:
            parts.append(given.to(vec.dtype))
        return parts

    def _interact(
        self, graph: Graph, start: Tensor, node_inputs: Tensor, edge_inputs: list[Tensor], velocity: Tensor | None
    ) -> tuple[Float[Tensor, "N C"], list[Float[Tensor, "N 3"]]]:
        """All layers; displacements are kept instead of positions, so that nothing is lost far from the origin."""
        feats = self.embed(node_inputs)
        attrs = node_inputs if self.use_node_attrs else None
        edges = self._edge_state(start, edge_inputs, None)
        moved = step = start.new_zeros(graph.num_nodes, 3)
        for number, layer in enumerate(self.layers):
            if self.update_pos and number > 0:
                vec = start + gather_senders(moved, graph) - gather_receivers(moved, graph)
                edges = self._edge_state(vec, edge_inputs, edges.window)
            before = feats
            feats, message = layer(before, edges, attrs, graph)
            if self.update_pos:
                step = cast(EGNNLayer, layer).step(before, message, edges, velocity, graph)
                moved = moved + step
        return feats, [moved, step]

    def _edge_state(self, vec: Tensor, edge_inputs: list[Tensor], window: Tensor | None) -> EdgeState:
        squared = vec.square().sum(1)
        length = (squared + _TINY_SQUARE).sqrt()
        feats = squared[:, None] if self.basis is None else self.basis(length)
        if edge_inputs:
            feats = torch.cat([feats, *edge_inputs], dim=1)
        if self.envelope and window is None:
            # edges are listed by their first distance, so the window stays that of the start when nodes move
            window = polynomial_envelope(length / self.cutoff)[:, None] * self.message_scale
        return EdgeState(feats, vec, length, window)


class PooledReadout(nn.Module):
    """Structure-level decoder of the QM9 model: Linear SiLU Linear per node, sum, Linear SiLU Linear.

    Source: Satorras et al. 2021, appendix C.2. Extensive only before its second half, so not for potentials.
    """

    def __init__(self, *, channels: int, out_scalars: int = 1) -> None:
        super().__init__()
        self.per_node = _mlp(channels, channels)
        self.per_graph = _mlp(channels, out_scalars)

    def forward(self, feats: Float[Tensor, "N C"], graph: Graph) -> Float[Tensor, "G S"]:
        out: Tensor = self.per_graph(segment_sum(self.per_node(feats), graph.ptr))
        return out


def _mlp(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, out))


def _readout(kind: str, channels: int, out: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    return nn.Linear(channels, out) if kind == "linear" else _mlp(channels, out)
