"""MPNN: message passing that reads coordinates as plain numbers, without any rotational symmetry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from geomol.graph import Graph, edge_vectors
from geomol.models.base import Features, config_of
from geomol.models.egnn_layer import EGNNLayer
from geomol.models.plain_inputs import (
    EDGE_INPUTS,
    PlainEdgeInputs,
    PlainNodeInputs,
    as_features,
    check_outputs,
    claim,
    mlp,
    node_coordinates,
)
from geomol.nn import unit_variance


class MPNN(nn.Module):
    """Graph network on raw coordinates, the backbone that frames, averages and augmentation are made for.

        m_ij = φ_e(h_i, h_j, a_ij)      h_i ← h_i + φ_h(h_i, Σ_j w(r_ij) m_ij)      y_i = φ_o(h_i)

    with a_ij = [radial functions of |r_ij|, q_i q_j, r_ij², r_ij / |r_ij|] ("relative": each part on request, the
    direction always; r_ij itself where there are no radial functions), or without the direction and with the node's
    own coordinates in h_i⁰ instead ("absolute", "centred").

    Source: the graph network of Gilmer et al., ICML 2017 (arXiv:1704.01212), in the form of the n-body baseline of
    Satorras, Hoogeboom, Welling, ICML 2021 (arXiv:2102.09844, appendix C.1); Puny et al. (arXiv:2110.03336), Kaba et
    al. (arXiv:2211.06489) and Kim et al. (arXiv:2306.02866) wrap the same network.

    Departs from them: relative coordinates, radial functions and the envelope are additions for potentials; with it,
    sums are all that enters, so energies are smooth. The layer is that of EGNN with the positions at rest: its first
    linear map is applied per node and per edge instead of to concatenations, which is the same map.

    Symmetry: permutations; translations ("relative", exactly; "centred" too, but then far structures feel each other);
    no rotations. Vectors are numbers in the lab frame.

    Published settings: `coordinates="absolute", cutoff=inf, envelope=False, num_radial=0, in_scalars=1, in_vectors=1,
    out_scalars=0, out_vectors=1, predicts="position"` with `edge_inputs=["charge_product"]` (Satorras), or with both
    `EDGE_INPUTS` and channels 60 (Puny: 92 103 parameters) or 32 (Kaba: 26 723), and `residual=False` (Kim).

    Args:
        elements: atomic numbers that enter as one-hot vectors.
        in_scalars: columns of `graph.node_scalars`; with "charge_product" the last is the charge and enters edges only.
        in_vectors: vectors of `graph.node_vectors`, which enter as three numbers each.
        out_scalars: scalars per node.
        out_vectors: vectors per node.
        predicts: "displacement", or "position": the network's first vector is a position in its coordinates, and the
            coordinates of the node are taken off.
        coordinates: "relative", "centred" (on the centroid of the structure) or "absolute".
        channels: width C.
        num_layers: rounds of messages.
        cutoff: radius of the graph, Å; inf for complete or given graphs.
        envelope: smooth cutoff, w above; 1 without.
        num_radial: Bessel functions of the distance, 0 for none.
        edge_inputs: of "charge_product" (q_i q_j) and "squared_distance", in this order.
        residual: whether features are added to (True) or replaced.

    Raises:
        ConfigError: settings that contradict each other, or a graph whose inputs do not fit them.
        ModelDomainError: at call, a periodic structure with absolute or centred coordinates.
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
        coordinates: str = "relative",
        channels: int = 64,
        num_layers: int = 4,
        cutoff: float = 5.0,
        envelope: bool = True,
        num_radial: int = 8,
        edge_inputs: Sequence[str] = (),
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.cutoff, self.coordinates, self.predicts = float(cutoff), coordinates, predicts
        self.in_vectors, self.out_scalars, self.out_vectors = in_vectors, out_scalars, out_vectors
        complete = math.isinf(self.cutoff)
        self.symmetry = claim(coordinates, smooth=envelope or complete, separable=not complete)
        check_outputs(predicts, coordinates, out_scalars, out_vectors)
        self.node_inputs = PlainNodeInputs(
            elements, in_scalars, in_vectors, coordinates=coordinates, charge=EDGE_INPUTS[0] in edge_inputs
        )
        self.edge_inputs = PlainEdgeInputs(
            edge_inputs, coordinates=coordinates, cutoff=self.cutoff, num_radial=num_radial, envelope=envelope
        )
        self.embed = nn.Linear(self.node_inputs.num_features, channels)
        self.layers = nn.ModuleList(
            EGNNLayer(
                channels,
                self.edge_inputs.num_features,
                num_node_attrs=0,
                update_pos=False,
                velocity=False,
                attention=False,
                residual=residual,
                tanh=False,
                scaling="none",
            )
            for _ in range(num_layers)
        )
        self.readout = mlp(channels, channels, out_scalars + 3 * out_vectors)

    def forward(self, graph: Graph) -> Features:
        """Scalars per node, and vectors in the frame of the coordinates."""
        dtype = self.embed.weight.dtype
        edges = self.edge_inputs(graph, edge_vectors(graph, dtype))
        feats: Float[Tensor, "N C"] = self.embed(self.node_inputs(graph, dtype))
        for layer in self.layers:
            feats, _ = cast(tuple[Tensor, Tensor], layer(feats, edges, None, graph))
        origin = node_coordinates(graph, self.coordinates) if self.predicts == "position" else None
        return as_features(self.readout(feats), self.out_scalars, origin)

    def calibrate(self, graph: Graph) -> None:
        """Gives the linear layers of an untrained network unit output on a typical batch, see `unit_variance`."""
        unit_variance(self, lambda: self(graph))
