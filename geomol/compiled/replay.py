"""Steps of molecular dynamics as one CUDA graph: recorded once, then launched as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from geomol.compiled.form import Form, fits, sample_graphs
from geomol.compiled.padding import pad_graph, unpad
from geomol.compiled.quiet import without_deprecations
from geomol.compiled.step import CompiledPotential, OfPotential, compiled_module
from geomol.compiled.trace import Traced, trace_step
from geomol.compiled.verify import check_step
from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.nn import device_of
from geomol.potential import Potential, Prediction

Step = Callable[..., Sequence[Tensor]]

WARM_UP = 3  # calls before the recording: libraries allocate on the first ones


@dataclass(eq=False)
class _Recording:
    """One recorded step: where its inputs are to be written and its results to be read."""

    capacity: int
    inputs: list[Tensor]
    outputs: list[Tensor]
    graph: Any


class OfRecordings(OfPotential):
    """What the replayed forms of a potential share: the checks, and the compiled form for what no recording serves; a
    copy makes recordings of its own.

    Raises:
        ConfigError: the potential is not on a CUDA device; slack below 1.
    """

    def __init__(self, potential: Potential, slack: float, backend: str | None) -> None:
        super().__init__()
        self.potential, self.slack, self.backend = potential, slack, backend
        self._check_device(device_of(potential))
        if not (math.isfinite(slack) and slack >= 1):
            raise ConfigError("slack must be at least 1", got=str(slack))
        self.otherwise = CompiledPotential(potential)
        self.recordings = 0
        self._steps: dict[Form, tuple[Traced, Step]] = {}
        self._recorded: dict[tuple[Form, int], Any] = {}

    @property
    def config(self) -> dict[str, object]:
        return {"replayed": self.backend, **self.potential.config}

    def _check_device(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise ConfigError("CUDA graphs need a CUDA device", got=str(device), remedy="move the potential there")

    def __getstate__(self) -> dict[str, Any]:
        """Without recordings."""
        return {**self.__dict__, "_steps": {}, "_recorded": {}}


@contextmanager
def beside(device: torch.device) -> Iterator[None]:
    """A stream of its own for the calls before a recording, between what came before and what comes after."""
    stream = torch.cuda.Stream(device=device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


class ReplayedPotential(OfRecordings):
    """A potential on a CUDA device whose whole step is replayed as one CUDA graph; called like `Potential`.

    For one system at a time, with as many atoms as at the first call and a room for pairs that is `slack` times larger
    than needed then; surplus room is filled by pairs between two ghosts beyond the cutoff (`pad_graph`). A call that
    needs more room, other atoms or other periodicity records anew; no call ever computes a part of the pairs. Results
    are copies, and stay as they are when the next step runs. What a recording does not serve, training and several
    systems at once, is computed by `CompiledPotential`.

    Args:
        potential: shared; its weights may change in place, not move.
        slack: room for pairs, relative to the need at the time of the recording.
        backend: of `torch.compile`, for the step that is recorded; None records its operators one by one.

    Raises:
        ConfigError: the potential is not on a CUDA device; slack below 1; see also `CompiledPotential`.
    """

    def __init__(self, potential: Potential, *, slack: float = 1.25, backend: str | None = "inductor") -> None:
        super().__init__(potential, slack, backend)
        self._checked: Tensor | None = None

    def forward(
        self, graph: Graph, *, forces: bool = True, stress: bool = False, create_graph: bool = False
    ) -> Prediction:
        """As `Potential.forward`."""
        if create_graph or graph.num_graphs != 1 or not (forces or stress) or not fits(graph):
            return cast(Prediction, self.otherwise(graph, forces=forces, stress=stress, create_graph=create_graph))
        if graph.numbers is not self._checked:
            self.potential.species(graph.numbers)
            self._checked = graph.numbers
        form = Form.of(graph, stress=stress, training=False)
        recording = self._recording(form, graph)
        traced, _ = self._step(form)
        for held, value in zip(recording.inputs, traced.arguments(pad_graph(graph, recording.capacity)), strict=True):
            held.copy_(value)
        recording.graph.replay()
        energy, node_energy, force, *virial = unpad([out.clone() for out in recording.outputs], graph.num_nodes)
        found = virial[0] / torch.linalg.det(graph.cell).abs()[:, None, None] if stress else None
        return Prediction(energy, node_energy, force if forces else None, found)

    def _recording(self, form: Form, graph: Graph) -> _Recording:
        found = self._recorded.get((form, graph.num_nodes))
        if found is None or found.capacity < graph.num_edges:
            found = self._record(form, pad_graph(graph, math.ceil(self.slack * graph.num_edges)))
            self._recorded[form, graph.num_nodes] = found
            self.recordings += 1
        assert isinstance(found, _Recording)
        return found

    def _record(self, form: Form, padded: Graph) -> _Recording:
        traced, step = self._step(form)
        inputs = [value.clone() for value in traced.arguments(padded)]
        with torch.no_grad(), beside(padded.device):
            for _ in range(WARM_UP):
                step(*inputs)
        recorded = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.device(padded.device), torch.cuda.graph(recorded):
            outputs = list(step(*inputs))
        return _Recording(padded.num_edges, inputs, outputs, recorded)

    def _step(self, form: Form) -> tuple[Traced, Step]:
        """The step as one function, without a look at values, which a recording cannot hold; checked once."""
        if form not in self._steps:
            graphs = sample_graphs(self.potential, form)
            traced = trace_step(self.potential, graphs[0], form)
            step = compiled_module(traced, self.backend)
            with without_deprecations(), torch.no_grad():  # as it is recorded: without a backward pass
                check_step(self.potential, lambda graph: step(*traced.arguments(graph)), form, graphs)
            self._steps[form] = traced, step
        return self._steps[form]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_checked": None}
