"""Steps of molecular dynamics as one CUDA graph: recorded once, then launched as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geomol.compiled.form import Form, fits, sample_graphs
from geomol.compiled.padding import pad_graph, unpad
from geomol.compiled.step import runner
from geomol.compiled.trace import Traced, trace_step
from geomol.compiled.verify import check_step
from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.potential import Potential, Prediction

_WARM_UP = 3  # calls before the recording: libraries allocate on the first ones


@dataclass(eq=False)
class _Recording:
    """One recorded step: where its inputs are to be written and its results to be read."""

    capacity: int
    inputs: list[Tensor]
    outputs: list[Tensor]
    graph: Any


class ReplayedPotential:
    """A potential on a CUDA device whose whole step is replayed as one CUDA graph; called like `Potential`.

    For one system at a time, with as many atoms as at the first call and a room for pairs that is `slack` times larger
    than needed then; surplus room is filled by pairs between two ghosts beyond the cutoff (`pad_graph`). A call that
    needs more room, other atoms or other periodicity records anew; no call ever computes a part of the pairs. Results
    are copies, and stay as they are when the next step runs.

    Args:
        potential: shared; its weights may change in place, not move.
        slack: room for pairs, relative to the need at the time of the recording.

    Raises:
        ConfigError: the potential is not on a CUDA device; slack below 1; see also `CompiledPotential`.
    """

    conservative = True

    def __init__(self, potential: Potential, *, slack: float = 1.25) -> None:
        device = next((p.device for p in potential.parameters()), torch.device("cpu"))
        if device.type != "cuda":
            raise ConfigError("CUDA graphs need a CUDA device", got=str(device), remedy="move the potential there")
        if not (math.isfinite(slack) and slack >= 1):
            raise ConfigError("slack must be at least 1", got=str(slack))
        self.potential, self.slack = potential, slack
        self.cutoff, self.elements, self.config = potential.cutoff, potential.elements, potential.config
        self.recordings = 0
        self._traced: dict[Form, Traced] = {}
        self._recorded: dict[tuple[Form, int], _Recording] = {}
        self._checked: Tensor | None = None

    def parameters(self) -> Any:
        """Those of the potential."""
        return self.potential.parameters()

    def __call__(self, graph: Graph, *, forces: bool = True, stress: bool = False) -> Prediction:
        """As `Potential.forward`, without training."""
        if graph.num_graphs != 1 or not fits(graph):
            return self.potential(graph, forces=forces, stress=stress)  # type: ignore[no-any-return]
        if graph.numbers is not self._checked:
            self.potential.species(graph.numbers)
            self._checked = graph.numbers
        form = Form.of(graph, stress=stress, training=False)
        recording = self._recording(form, graph)
        padded = pad_graph(graph, recording.capacity)
        for held, value in zip(recording.inputs, self._traced[form].arguments(padded), strict=True):
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
        return found

    def _record(self, form: Form, padded: Graph) -> _Recording:
        traced = self._trace(form)
        inputs = [value.clone() for value in traced.arguments(padded)]
        stream = torch.cuda.Stream(device=padded.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(padded.device))
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                traced.module(*inputs)
        torch.cuda.current_stream(padded.device).wait_stream(stream)
        recorded = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(recorded):
            outputs = list(traced.module(*inputs))
        return _Recording(padded.num_edges, inputs, outputs, recorded)

    def _trace(self, form: Form) -> Traced:
        """The step as operators, without a look at values, which a recording cannot hold; checked once."""
        if form not in self._traced:
            graphs = sample_graphs(self.potential, form)
            traced = trace_step(self.potential, graphs[0], form)
            check_step(self.potential, runner(traced, None, form), form, graphs)
            self._traced[form] = traced
        return self._traced[form]
