"""Pose networks and the wrappers around them, with official weights, give the official numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geomol.graph import Graph
from geomol.models import Features, Symmetry
from geomol.models.mpnn import MPNN
from geomol.models.pair_transformer import PairTransformer
from geomol.nn.vector_neurons import VNBatchNorm, VNLinear, VNLinearReLU
from geomol.symmetry.canonical import Canonicalised
from geomol.symmetry.gram_schmidt import gram_schmidt
from geomol.symmetry.pose_networks import VNDGCNN, VNDeepSets, VNSmall
from geomol.symmetry.poses import pose_graph
from geomol.symmetry.probabilistic import ProbabilisticSymmetrisation

Arrays = dict[str, Tensor]


def read_case(golden: Path, name: str) -> tuple[dict[str, Any], Arrays, Arrays, Arrays]:
    """Manifest, weights, inputs and outputs of one case."""
    meta = json.loads((golden / f"{name}.json").read_text())
    with np.load(golden / f"{name}.npz", allow_pickle=False) as z:
        arrays = {k: torch.from_numpy(z[k]) for k in z.files}
    groups = (
        {k[len(g) + 1 :]: v for k, v in arrays.items() if k.startswith(g)} for g in ("weights", "inputs", "outputs")
    )
    return meta, *groups  # type: ignore[return-value]


def agree(meta: dict[str, Any], ours: Tensor, theirs: Tensor) -> None:
    """Within the tolerance of the case."""
    tolerance = meta["tolerance"]
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=tolerance["atol"], rtol=tolerance["rtol"])


def complete_graph(pos: Tensor, velocity: Tensor | None = None, charge: Tensor | None = None) -> Graph:
    """Complete graphs on (G, n, 3) positions."""
    num, size, _ = pos.shape
    pairs = [(g * size + i, g * size + j) for g in range(num) for i in range(size) for j in range(size) if i != j]
    receivers, senders = torch.tensor(pairs).T
    ptr = torch.arange(num + 1) * size
    return Graph(
        pos=pos.reshape(-1, 3),
        numbers=torch.zeros(num * size, dtype=torch.long),
        edge_index=torch.stack([senders, receivers]),
        edge_ptr=torch.arange(num * size + 1) * (size - 1),
        cell_shift=torch.zeros(len(pairs), 3, dtype=torch.long),
        cell=torch.zeros(num, 3, 3, dtype=pos.dtype),
        pbc=torch.zeros(num, 3, dtype=torch.bool),
        batch=torch.arange(num).repeat_interleave(size),
        ptr=ptr,
        node_scalars=None if charge is None else charge.reshape(-1, 1),
        node_vectors=None if velocity is None else velocity.reshape(-1, 1, 3),
    )


class Filler:
    """Copies official weights into modules and knows which are left."""

    def __init__(self, weights: Arrays) -> None:
        self.left = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}

    @torch.no_grad()
    def put(self, parameter: Tensor, name: str) -> None:
        parameter.copy_(self.left.pop(name).view_as(parameter))

    def linear(self, module: VNLinear | nn.Linear | nn.LayerNorm, name: str) -> None:
        self.put(module.weight, f"{name}.weight")
        if getattr(module, "bias", None) is not None:
            self.put(module.bias, f"{name}.bias")

    def norm(self, module: VNBatchNorm, name: str) -> None:
        for key in ("weight", "bias", "running_mean", "running_var"):
            self.put(getattr(module.lengths, key), f"{name}.{key}")

    def linear_relu(self, module: VNLinearReLU, name: str, norm: str) -> None:
        self.linear(module.linear, f"{name}.map_to_feat")
        self.norm(module.norm, f"{name}.batchnorm.{norm}")
        self.linear(module.relu.direction, f"{name}.map_to_dir")

    def done(self) -> None:
        assert not self.left, sorted(self.left)


def load_deep_sets(network: VNDeepSets, weights: Arrays) -> None:
    fill = Filler(weights)
    for i, layer in enumerate(network.layers):
        name = "first_set_layer" if i == 0 else f"set_layers.{i - 1}"
        for ours, theirs in ((layer.own, "identity_linear"), (layer.others, "pooling_linear")):
            fill.linear(ours, f"{name}.{theirs}")
            assert not fill.left.pop(f"{name}.{theirs}.bias").any()
        fill.linear(layer.relu.direction, f"{name}.nonlinear_function.map_to_dir")
    fill.linear(network.readout, "output_layer")
    assert not fill.left.pop("output_layer.bias").any()
    fill.done()


class TanhOfState(nn.Module):
    """The function that the cases apply to canonical states."""

    cutoff = math.inf

    def __init__(self) -> None:
        super().__init__()
        self.symmetry = Symmetry(group="T(3)", exact=True, smooth=True)
        self.config: dict[str, object] = {}

    def forward(self, graph: Graph) -> Features:
        assert graph.node_vectors is not None
        vectors = torch.tanh(graph.pos[:, None] + 0.3 * graph.node_vectors)
        return Features(vectors.new_zeros(len(vectors), 0), vectors)


@pytest.mark.parametrize("case", ["nbody_pv", "nbody_pva_translation"])
def test_canonical_states_of_particles_are_the_official_ones(golden: Path, case: str) -> None:
    meta, weights, inputs, outputs = read_case(golden, f"canonicalization/{case}")
    config = meta["config"]
    network = VNDeepSets(
        features=config["canon_feature"],
        channels=config["hidden_dim"],
        num_layers=config["num_layers"],
        slope={"relu": 0.0, "leakyrelu": 0.2}[config["nonlinearity"]],
    ).double()
    load_deep_sets(network, weights)
    origin = "learned" if config["canon_translation"] else "centroid"
    model = Canonicalised(TanhOfState(), pose=network, group="SE(3)", third="free", origin=origin)
    graph = complete_graph(inputs["loc"].view(3, 5, 3), inputs["vel"].view(3, 5, 3))
    vectors, poses = network(graph), model.poses(graph)
    seen, _ = pose_graph(graph, poses)
    assert seen.node_vectors is not None
    agree(meta, vectors.axes[graph.batch], outputs["rotation_vectors"])
    agree(meta, poses.rotation.mT[graph.batch], outputs["rotation_matrix"])
    agree(meta, seen.pos, outputs["canonical_loc"])
    agree(meta, seen.node_vectors[:, 0], outputs["canonical_vel"])
    if origin == "learned":
        agree(meta, poses.origin[graph.batch], outputs["translation_vectors"])
    home = model(graph).vectors
    assert home is not None
    agree(meta, home[:, 0] + poses.origin[graph.batch], outputs["inverted"])


@pytest.mark.parametrize("case", ["pointcloud_mean", "pointcloud_max"])
def test_canonical_point_clouds_are_the_official_ones(golden: Path, case: str) -> None:
    meta, weights, inputs, outputs = read_case(golden, f"canonicalization/{case}")
    config = meta["config"]
    network = VNSmall(num_neighbours=config["n_knn"], pooling=config["pooling"], centre=False).double().eval()
    fill = Filler(weights)
    fill.linear_relu(network.edges, "conv_pos", "bn2d")
    fill.linear_relu(network.points, "conv1", "bn1d")
    fill.norm(network.norm, "bn1.bn1d")
    fill.linear_relu(network.vectors, "conv2", "bn1d")
    if config["pooling"] == "max":
        fill.linear(network.pool.direction, "pool.map_to_dir")
    fill.done()
    points = inputs["points"].mT.contiguous()
    graph = complete_graph(points)
    axes = network(graph).axes
    agree(meta, axes.mT, outputs["vectors"])
    rotation = gram_schmidt(axes)
    agree(meta, rotation.mT, outputs["rotation"])
    agree(meta, (points @ rotation).mT, outputs["canonical_points"])


def test_gram_schmidt_gives_the_official_matrices(golden: Path) -> None:
    meta, _, inputs, outputs = read_case(golden, "lps/gram_schmidt")
    agree(meta, gram_schmidt(inputs["matrices"]), outputs["orthogonal"])
    agree(meta, gram_schmidt(inputs["matrices"], third="determinant"), outputs["rotation"])


def load_interface(network: VNDGCNN, fill: Filler) -> None:
    name = "interface.vnn_interface"
    for k, (conv, pool) in enumerate(((network.conv1, network.pool1), (network.conv2, network.pool2)), start=1):
        fill.linear_relu(conv, f"{name}.conv{k}", "bn")
        fill.linear(pool.direction, f"{name}.pool{k}.map_to_dir")
    fill.linear_relu(network.conv3, f"{name}.conv3", "bn")
    fill.linear(network.pool3.direction, f"{name}.pool3.map_to_dir")
    fill.linear_relu(network.invariants.first, f"{name}.std_feature.vn1", "bn")
    fill.linear_relu(network.invariants.second, f"{name}.std_feature.vn2", "bn")
    fill.linear(network.invariants.last, f"{name}.std_feature.vn_lin")
    fill.linear(network.score, f"{name}.head1")
    fill.linear(network.vectors, f"{name}.head2.map_to_feat")


def load_graph_network(model: MPNN, fill: Filler) -> None:
    """The concatenated first maps of the official network are cut into the parts that act on each input."""
    fill.linear(model.embed, "backbone.embedding")
    for i, layer in enumerate(model.layers):
        load_message_layer(layer, f"backbone.layer_{i}", fill)
    fill.linear(model.readout[0], "backbone.decoder.0")
    fill.linear(model.readout[2], "backbone.decoder.2")


def load_message_layer(layer: nn.Module, name: str, fill: Filler) -> None:
    width = layer.message.in_features
    edge, node = fill.left.pop(f"{name}.edge_mlp.0.weight"), fill.left.pop(f"{name}.node_mlp.0.weight")
    with torch.no_grad():
        layer.from_nodes.weight.copy_(torch.cat([edge[:, :width], edge[:, width : 2 * width], node[:, :width]]))
        layer.from_edges.weight.copy_(edge[:, 2 * width :])
        layer.from_sum.weight.copy_(node[:, width:])
    fill.put(layer.from_edges.bias, f"{name}.edge_mlp.0.bias")
    fill.put(layer.from_sum.bias, f"{name}.node_mlp.0.bias")
    fill.linear(layer.message, f"{name}.edge_mlp.2")
    fill.linear(layer.update, f"{name}.node_mlp.2")


class GivenNoise(ProbabilisticSymmetrisation):
    """With the noise of the case in place of its own."""

    given: Tensor

    def noise(self, graph: Graph) -> Tensor:
        return self.given


def load_transformer(model: PairTransformer, fill: Filler) -> None:
    fill.linear(model.embed, "backbone.input.0")
    fill.put(model.code, "backbone.pos_encoder.pe")
    for key, value in model.encoder.state_dict(keep_vars=True).items():
        fill.put(value, f"backbone.encoder.{key}")
    fill.linear(model.readout[2], "backbone.output.2")
    fill.linear(model.readout[5], "backbone.output.5")


def symmetrised(meta: dict[str, Any], inputs: Arrays, backbone: nn.Module) -> tuple[GivenNoise, Graph]:
    config = meta["config"]
    model = GivenNoise(
        backbone,
        pose={
            "name": "vn_dgcnn",
            "channels": config["vnn_hidden_dim"] // 3,
            "num_neighbours": config["vnn_k_nearest_neighbors"],
        },
        samples=config["samples"],
        noise_scale=config["noise_scale"],
        permutations=config["symmetry"] == "SnxO3",
        tau=config["tau"],
        sinkhorn_iterations=config["sinkhorn_iterations"],
        entropy_weight=1.0,
    )
    graph = complete_graph(inputs["loc"], inputs["vel"], inputs["charges"])
    model.given = inputs["noise"].permute(0, 2, 1, 4, 3).flatten(0, 1)  # (G, K, n, 3, V) to (N, K, V, 3)
    return model.double().eval(), graph


def check_interface(meta: dict[str, Any], model: GivenNoise, graph: Graph, outputs: Arrays) -> None:
    vectors, _, _ = model.pose_vectors(graph)
    assert vectors.scores is not None
    agree(meta, vectors.axes.mT.reshape(3, 4, 3, 3), outputs["vnn_vectors"])
    agree(meta, vectors.scores.view(3, 4, 5), outputs["vnn_scores"])
    agree(meta, model.poses(graph).rotation.view(3, 4, 3, 3), outputs["group_orthogonal"])


def test_probabilistic_symmetrisation_over_permutations_and_o3_is_the_official_one(golden: Path) -> None:
    meta, weights, inputs, outputs = read_case(golden, "lps/prob_snxo3_transformer")
    config, fill = meta["config"], Filler(weights)
    backbone = PairTransformer(
        num_nodes=5,
        in_scalars=1,
        in_vectors=1,
        channels=config["backbone_dim"],
        num_heads=config["backbone_heads"],
        ff_channels=config["backbone_dim"],
        num_layers=config["backbone_layers"],
    )
    model, graph = symmetrised(meta, inputs, backbone)
    assert isinstance(model.pose, VNDGCNN)
    load_interface(model.pose, fill)
    load_transformer(backbone, fill)
    fill.done()
    check_interface(meta, model, graph, outputs)
    prediction = model(graph).vectors
    assert prediction is not None
    agree(meta, (prediction[:, 0] + graph.pos).view(3, 5, 3), outputs["prediction"])
    ordering = model._draw(graph)[1]
    assert ordering is not None
    agree(meta, ordering.blocks[0][1].view(3, 4, 5, 5), outputs["group_permutation"])
    penalty = model.penalty()
    assert penalty is not None
    agree(meta, penalty.detach()[None], outputs["entropy_loss"])


def test_probabilistic_symmetrisation_over_o3_is_the_official_one(golden: Path) -> None:
    meta, weights, inputs, outputs = read_case(golden, "lps/prob_o3_gnn")
    config, fill = meta["config"], Filler(weights)
    backbone = MPNN(
        in_scalars=1,
        in_vectors=1,
        out_scalars=0,
        out_vectors=1,
        predicts="position",
        coordinates="absolute",
        channels=config["backbone_dim"],
        num_layers=config["backbone_layers"],
        cutoff=math.inf,
        envelope=False,
        num_radial=0,
        edge_inputs=["charge_product", "squared_distance"],
        residual=False,
    )
    model, graph = symmetrised(meta, inputs, backbone)
    assert isinstance(model.pose, VNDGCNN)
    load_interface(model.pose, fill)
    load_graph_network(backbone, fill)
    fill.done()
    check_interface(meta, model, graph, outputs)
    prediction = model(graph).vectors
    assert prediction is not None
    agree(meta, (prediction[:, 0] + graph.pos).view(3, 5, 3), outputs["prediction"])
