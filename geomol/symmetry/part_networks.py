"""Which part each node belongs to: given with the graph, fixed, by distance, or learned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError, InputError, ModelDomainError, nearest
from geomol.graph import Graph, farthest_points, kept_ptr, nearest_points
from geomol.models import Symmetry
from geomol.ops import segment_mean

FORMS = ("weights", "number")
_EVEN = 1e-8  # variance of scores that counts as none: nodes that are all alike share all parts evenly
_SUM = 1e-4  # how far given weights may be from the sum 1: rounding of single precision, and no more


@dataclass(frozen=True, eq=False)
class Partition:
    """What a part network says of each node.

    Attributes:
        weights: share of the node in each part; not negative, of sum 1.
        graph: what is left for the backbone to read.
        context: further invariants of each node for the backbone.
    """

    weights: Float[Tensor, "N K"]
    graph: Graph
    context: Float[Tensor, "N C"] | None = None


class PartNetwork(nn.Module, ABC):
    """Says which part each node belongs to, by invariants alone.

    Attributes:
        symmetry: of the weights.
        constant: whether the weights stay as they are when nodes move.
        hard: whether every node belongs to one part as a whole.
        num_parts: parts of each structure, K; some may be empty.
        context: columns of `Partition.context`.
    """

    symmetry = Symmetry("E(3)", exact=True, smooth=True)
    constant: bool = True
    hard: bool = True

    def __init__(self, num_parts: int, *, context: int = 0) -> None:
        super().__init__()
        if num_parts < 1 or context < 0:
            raise ConfigError("at least 1 part and 0 columns of context", got=f"{num_parts}, {context}")
        self.num_parts, self.context = num_parts, context
        self.config: dict[str, object] = {"num_parts": num_parts}

    @abstractmethod
    def forward(self, graph: Graph) -> Partition:
        """The parts of every structure of the graph."""


class GivenParts(PartNetwork):
    """Parts that come with the graph, in the last columns of `node_scalars`, which the backbone does not see.

    Args:
        num_parts: K.
        form: "weights": the last K columns; "number": the last column, a number from 0 to K − 1.

    Raises:
        ConfigError: unknown form, or at call a graph without the columns. InputError: columns that are no such weights.
    """

    def __init__(self, num_parts: int, *, form: str = "weights") -> None:
        super().__init__(num_parts)
        if form not in FORMS:
            raise ConfigError("unknown form of parts", expected=" or ".join(FORMS), got=form)
        self.form, self.hard = form, form == "number"
        self.config["form"] = form

    def forward(self, graph: Graph) -> Partition:
        wanted = 1 if self.hard else self.num_parts
        scalars = graph.node_scalars
        if scalars is None or scalars.shape[1] < wanted:
            got = 0 if scalars is None else scalars.shape[1]
            raise ConfigError("`node_scalars` does not hold the parts", expected=f"{wanted} columns", got=str(got))
        columns = scalars[:, -wanted:]
        rest = scalars[:, :-wanted] if scalars.shape[1] > wanted else None
        if self.hard:
            number = columns[:, 0].round().long()
            if bool(((number < 0) | (number >= self.num_parts) | (columns[:, 0] != number)).any()):
                raise InputError("no numbers of parts", expected=f"0 to {self.num_parts - 1}")
            columns = nn.functional.one_hot(number, self.num_parts).to(graph.pos.dtype)
        elif bool((columns < 0).any()) or bool(((columns.sum(1) - 1).abs() > _SUM).any()):
            raise InputError("weights of parts that are no shares", expected="not negative, of sum 1 for each node")
        return Partition(columns, graph.replace(node_scalars=rest))


class FixedParts(PartNetwork):
    """The same parts for every structure, node by node: for one molecule whose atoms always come in the same order.

    Symmetry: the nodes are told apart by their numbers, so permutations are lost.

    Args:
        assignment: part of each node, from 0.

    Raises:
        ConfigError: no such numbers. ModelDomainError: at call, a structure of another size.
    """

    def __init__(self, assignment: Sequence[int]) -> None:
        if not len(assignment) or any(isinstance(k, bool) or not isinstance(k, int) or k < 0 for k in assignment):
            raise ConfigError("an assignment gives every node the number of its part, from 0", got=str(assignment))
        super().__init__(max(assignment) + 1)
        self.config = {"assignment": list(assignment)}
        self.assignment = tuple(assignment)

    def forward(self, graph: Graph) -> Partition:
        size = len(self.assignment)
        if bool((graph.ptr.diff() != size).any()):
            raise ModelDomainError(
                "a structure that the assignment to parts is not of", expected=f"{size} nodes", got="another number"
            )
        number = torch.arange(graph.num_nodes, device=graph.device) % size
        table = torch.tensor(self.assignment, device=graph.device)[number]
        return Partition(nn.functional.one_hot(table, self.num_parts).to(graph.pos.dtype), graph)


class NearestParts(PartNetwork):
    """The cells of K points far from each other: each node goes with the nearest. No parameters.

    A fine partition: a cell that lies within one rigid part moves with it, so that what holds for every cell holds for
    the part. Cells across a joint do not; the more cells, the fewer nodes they concern.

    Symmetry: E(3), exactly but for ties; not continuous, nodes change sides at once. What moves together in one place
    can move the cells in another, since the points are chosen one after the other from the whole structure.
    """

    symmetry = Symmetry("E(3)", exact=True, smooth=False, continuous=False, separable=False)
    constant = False

    def forward(self, graph: Graph) -> Partition:
        pos = graph.pos.detach()
        kept = farthest_points(pos, graph.ptr, count=self.num_parts, start="outermost")
        ptr = kept_ptr(graph.ptr, count=self.num_parts)
        number = nearest_points(pos[kept], ptr, pos, graph.ptr) - ptr[graph.batch]
        return Partition(nn.functional.one_hot(number, self.num_parts).to(graph.pos.dtype), graph)


class LearnedParts(PartNetwork):
    """w_i = softmax(β s_i) with scores s of an invariant backbone, which is trained with the rest.

    Balanced, the scores of each part have mean 0 and variance 1 over the nodes of a structure. Otherwise nothing keeps
    all nodes from one part, which is where an untrained network puts them, and hard shares leave them there.

    With `PartFrames` around `NearestParts` as that backbone, fine parts tell the coarser ones.

    Args:
        backbone: any invariant entry of `BACKBONES`, of out_scalars = num_parts + context; it reads the graph as it is.
        num_parts: K.
        context: further scalars of it that are told to the backbone inside.
        sharpness: β.
        balanced: see above.
        hard: w is 1 at the largest share and 0 elsewhere, with the derivatives of the softmax (a straight-through
            estimate): every node is in one part, at the cost of jumps.

    Raises:
        ConfigError: settings out of range, or at call a backbone with other outputs.
    """

    constant = False

    def __init__(
        self,
        backbone: nn.Module,
        num_parts: int,
        *,
        context: int = 0,
        sharpness: float = 4.0,
        balanced: bool = True,
        hard: bool = False,
    ) -> None:
        super().__init__(num_parts, context=context)
        if not sharpness > 0:
            raise ConfigError("the sharpness of parts must be positive", got=str(sharpness))
        if not isinstance(backbone, nn.Module):
            raise ConfigError("learned parts need a backbone that is built", got=type(backbone).__name__)
        self.backbone, self.sharpness, self.balanced, self.hard = backbone, sharpness, balanced, hard
        self.config |= {"context": context, "sharpness": sharpness, "balanced": balanced, "hard": hard}
        inner: Symmetry = backbone.symmetry  # type: ignore[assignment]
        smooth, continuous = inner.smooth and not hard, inner.continuous and not hard
        separable = inner.separable and not balanced
        self.symmetry = Symmetry(inner.group, inner.exact, smooth, continuous, separable, inner.stochastic)

    def forward(self, graph: Graph) -> Partition:
        out: Tensor = self.backbone(graph).scalars
        if out.shape[1] != self.num_parts + self.context:
            raise ConfigError(
                "the backbone of the parts gives other scalars than they need",
                expected=f"out_scalars={self.num_parts + self.context}",
                got=str(out.shape[1]),
            )
        scores, context = out.tensor_split([self.num_parts], dim=1)
        if self.balanced:
            scores = scores - segment_mean(scores, graph.ptr)[graph.batch]
            variance = segment_mean(scores.square(), graph.ptr)
            scores = scores / (variance + _EVEN).sqrt()[graph.batch]
        weights = torch.softmax(self.sharpness * scores, dim=1)
        if self.hard:
            chosen = nn.functional.one_hot(weights.argmax(1), self.num_parts).to(weights.dtype)
            weights = chosen + (weights - weights.detach())
        return Partition(weights, graph, context if self.context else None)


PART_NETWORKS: dict[str, type[PartNetwork]] = {
    "given": GivenParts,
    "fixed": FixedParts,
    "nearest": NearestParts,
    "learned": LearnedParts,
}


def build_part_network(parts: Mapping[str, object] | nn.Module) -> PartNetwork:
    """A part network from {"name": …, **constructor arguments}; one that is built already is taken as it is.

    Raises:
        ConfigError: unknown name or arguments.
    """
    if isinstance(parts, PartNetwork):
        return parts
    if not isinstance(parts, Mapping):
        raise ConfigError("`parts` is no part network", expected='{name = "…", …}', got=type(parts).__name__)
    arguments = dict(parts)
    name = str(arguments.pop("name", None))
    if name not in PART_NETWORKS:
        raise ConfigError(f'unknown part network "{name}"', remedy=nearest(name, PART_NETWORKS))
    try:
        return PART_NETWORKS[name](**arguments)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(f'arguments of part network "{name}"', got=str(error)) from error


def part_config(network: PartNetwork) -> dict[str, object]:
    """The configuration of a part network, without the backbone of a learned one.

    Raises:
        ConfigError: a class outside `PART_NETWORKS`.
    """
    name = next((name for name, cls in PART_NETWORKS.items() if type(network) is cls), None)
    if name is None:
        raise ConfigError(f"{type(network).__name__} is not in PART_NETWORKS", remedy="add it there")
    return {"name": name, **network.config}
