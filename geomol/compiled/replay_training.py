"""Training steps as two CUDA graphs, one forward and one back: recorded once, then launched as wholes."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch._functorch import config as functorch_config

from geomol.compiled.form import Form, fits, sample_graphs
from geomol.compiled.padding import GHOSTS, pad_batch
from geomol.compiled.quiet import without_deprecations
from geomol.compiled.replay import WARM_UP, OfRecordings, Step, beside
from geomol.compiled.step import compiled_module
from geomol.compiled.trace import Traced, trace_step
from geomol.compiled.verify import check_step
from geomol.errors import GeomolError
from geomol.graph import Graph
from geomol.potential import Potential, Prediction


class _Token:
    """Lives as long as someone may still ask for the derivatives of a pass."""


@dataclass(eq=False)
class _Recording:
    """A recorded step and its derivative: where each reads its inputs and leaves its results.

    Attributes:
        room: atoms and pairs, ghosts included.
        inputs, outputs: of the forward graph.
        cotangents, gradients: of the backward graph; None for weights that the results do not depend on.
        forward, backward: the graphs.
        owner: the pass whose intermediate values the recording holds.
        waiting: that pass as long as its derivatives may still be asked for.
    """

    room: tuple[int, int]
    inputs: list[Tensor]
    outputs: list[Tensor]
    cotangents: list[Tensor]
    gradients: list[Tensor | None]
    forward: Any
    backward: Any
    owner: int = 0
    waiting: Callable[[], _Token | None] = field(default=lambda: None)


class _Pass(torch.autograd.Function):
    """One replay of a recording, differentiable by the weights; results are copies."""

    @staticmethod
    def forward(ctx: Any, recording: _Recording, token: _Token, *weights: Tensor) -> tuple[Tensor, ...]:
        recording.forward.replay()
        recording.owner += 1
        recording.waiting = weakref.ref(token)
        ctx.recording, ctx.token, ctx.owner = recording, token, recording.owner
        return tuple(out.clone() for out in recording.outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        recording: _Recording = ctx.recording
        if recording.owner != ctx.owner:
            raise GeomolError(
                "a replayed training step was differentiated again after another one had run",
                remedy="ask for all derivatives of a step before the next, or use CompiledPotential",
            )
        for held, value in zip(recording.cotangents, cotangents, strict=True):
            held.copy_(value)
        recording.backward.replay()
        recording.waiting = lambda: None
        return (None, None, *(None if g is None else g.clone() for g in recording.gradients))


class ReplayedTraining(OfRecordings):
    """A potential on a CUDA device whose training step is replayed as two CUDA graphs; called like `Potential`.

    For small batches, where launching operators takes longer than computing them. A recording serves batches of one
    number of structures, and has room for `slack` times the atoms and pairs that the first of them had; surplus room is
    filled by a further structure of ghosts (`pad_batch`). A batch that needs more room records anew. What a recording
    does not serve is computed by `CompiledPotential`: calls without `create_graph`, other kinds of graphs, and a pass
    while the derivatives of the last one may still be asked for, whose intermediate values it would overwrite.

    Before it is used, the padded step must give the energies, forces and training gradients of the plain potential.

    Args:
        potential: shared; its weights may change in place, not move.
        slack: room for atoms and pairs, relative to the need at the time of the recording.
        backend: of `torch.compile`, for the step that is recorded; None records its operators one by one.

    Raises:
        ConfigError: the potential is not on a CUDA device; slack below 1; see also `CompiledPotential`.
    """

    def __init__(self, potential: Potential, *, slack: float = 1.1, backend: str | None = "inductor") -> None:
        super().__init__(potential, slack, backend)
        self.weights = [p for p in potential.parameters() if p.requires_grad]

    def forward(
        self, graph: Graph, *, forces: bool = True, stress: bool = False, create_graph: bool = False
    ) -> Prediction:
        """As `Potential.forward`."""
        recording = None
        if create_graph and (forces or stress) and fits(graph) and self.weights:
            self.potential.species(graph.numbers)
            form = Form(periodic=graph.is_periodic or stress, single=False, stress=stress, training=True)
            recording = self._recording(form, graph)
        if recording is None or recording.waiting() is not None:
            return cast(Prediction, self.otherwise(graph, forces=forces, stress=stress, create_graph=create_graph))
        traced, _ = self._step(form)
        for held, value in zip(recording.inputs, traced.arguments(pad_batch(graph, *recording.room)), strict=True):
            held.copy_(value)
        results = _Pass.apply(recording, _Token(), *self.weights)  # type: ignore[no-untyped-call]
        energy, node_energy, force, *virial = _without_ghosts(results, graph)
        found = virial[0] / torch.linalg.det(graph.cell).abs()[:, None, None] if stress else None
        return Prediction(energy, node_energy, force if forces else None, found)

    def prepare(self, graph: Graph, *, stress: bool = False) -> None:
        """Compiles and checks the step for batches like this one now, and records it."""
        self(graph, stress=stress, create_graph=True)

    def _recording(self, form: Form, graph: Graph) -> _Recording:
        found = self._recorded.get((form, graph.num_graphs))
        if found is None or found.room[0] < graph.num_nodes + GHOSTS or found.room[1] < graph.num_edges:
            room = math.ceil(self.slack * graph.num_nodes) + GHOSTS, math.ceil(self.slack * graph.num_edges)
            if found is not None:  # batches of other sizes come along in any order: room only grows
                room = max(room[0], found.room[0]), max(room[1], found.room[1])
            with _repeatable():
                found = self._record(form, pad_batch(graph, *room))
            self._recorded[form, graph.num_graphs] = found
            self.recordings += 1
        assert isinstance(found, _Recording)
        return found

    def _record(self, form: Form, padded: Graph) -> _Recording:
        traced, step = self._step(form)
        inputs = [value.clone() for value in traced.arguments(padded)]
        with beside(padded.device):
            for _ in range(WARM_UP):
                outputs = list(step(*inputs))
                cotangents = [torch.zeros_like(out) for out in outputs]
                _gradients(outputs, self.weights, cotangents)
        del outputs  # their graph holds the weights' ends on the stream of the warm-up
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.device(padded.device):
            with torch.cuda.graph(forward):
                outputs = list(step(*inputs))
            with torch.cuda.graph(backward, pool=forward.pool()):
                gradients = _gradients(outputs, self.weights, cotangents)
        held = [out.detach() for out in outputs]
        return _Recording(_room(padded), inputs, held, cotangents, gradients, forward, backward)

    def _step(self, form: Form) -> tuple[Traced, Step]:
        """The step as one function of the fields of a padded graph; checked once."""
        if form not in self._steps:
            graphs = sample_graphs(self.potential, form)
            traced = trace_step(self.potential, graphs[0], form)
            step = compiled_module(traced, self.backend)

            def padded(graph: Graph) -> list[Tensor]:
                more = pad_batch(graph, graph.num_nodes + GHOSTS + 1, graph.num_edges + 3)
                return _without_ghosts(step(*traced.arguments(more)), graph)

            with _repeatable(), without_deprecations():
                check_step(self.potential, padded, form, graphs)
            self._steps[form] = traced, step
        return self._steps[form]


def _repeatable() -> AbstractContextManager[None]:
    """What is compiled within leaves alone, in its derivative, what the forward pass has kept for it."""
    return cast(AbstractContextManager[None], functorch_config.patch(donated_buffer=False))


def _gradients(
    outputs: Sequence[Tensor], weights: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients by the weights; what the outputs hold for them is kept, so that a replay can be repeated."""
    differentiable = [(out, c) for out, c in zip(outputs, cotangents, strict=True) if out.requires_grad]
    outs, given = zip(*differentiable, strict=True)
    return list(torch.autograd.grad(outs, weights, given, retain_graph=True, allow_unused=True))


def _room(graph: Graph) -> tuple[int, int]:
    return graph.num_nodes, graph.num_edges


def _without_ghosts(values: Sequence[Tensor], graph: Graph) -> list[Tensor]:
    """Results of a step on a padded batch, as those of its structures."""
    energy, node_energy, force, *virial = values
    structures, atoms = graph.num_graphs, graph.num_nodes
    return [energy[:structures], node_energy[:atoms], force[:atoms], *(v[:structures] for v in virial)]
