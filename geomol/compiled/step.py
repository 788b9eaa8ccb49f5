"""Potentials whose whole step, from positions to forces and stress, is one compiled function."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from geomol.compiled.form import Form, fits, sample_graphs
from geomol.compiled.quiet import without_deprecations
from geomol.compiled.trace import Traced, trace_step
from geomol.compiled.verify import check_step
from geomol.errors import ConfigError, GeomolError
from geomol.graph import Graph
from geomol.models import Symmetry
from geomol.potential import Potential, Prediction

_log = logging.getLogger(__name__)
_Key = tuple[Form, torch.dtype, torch.device, tuple[str, ...]]

WHOLE = {False: ("tabulated",), True: ("separable", "tabulated")}  # with few pairs and with many: see `plain_forms`
MANY_PAIRS = 1000  # from about here on the separable convolution is faster whole; in training always


def has_many_pairs(graph: Graph) -> bool:
    """Whether inference leaves the separable convolution whole, which takes a compiled step of its own."""
    return graph.num_edges >= MANY_PAIRS


class OfPotential(nn.Module):
    """What another form of a potential says of it: all that is not computed anew."""

    conservative = True
    potential: Potential

    @property
    def cutoff(self) -> float:
        return self.potential.cutoff

    @property
    def elements(self) -> list[int]:
        return self.potential.elements

    @property
    def symmetry(self) -> Symmetry:
        return self.potential.symmetry

    @property
    def dtype(self) -> torch.dtype:
        return self.potential.dtype


class CompiledPotential(OfPotential):
    """A potential that compiles itself where it is used: called like `Potential`, with the same results to rounding.

    Energy, forces and stress are traced as one graph of operators and compiled by `torch.compile` for all numbers of
    atoms and pairs. One step is made for each `Form` that comes along, on its first call, and takes from seconds to
    minutes (`seconds` says how many). Before it is used it must give the energies, forces and stress of the plain
    potential, and for training the gradients of a loss on all of them, on two systems of different size: the recorded
    graph in float64 to 1e-10, then the compiled code in its own precision.

    In training, and where there are many pairs, the separable convolution of R³×S² stays one operator, as in the plain
    potential; the one that reads its kernels from tables always does.

    Weights are shared with the potential. Structures with at most one atom or pair, and graphs with inputs beyond
    elements and positions, are computed by the plain potential.

    Args:
        potential: shared, not copied; cast or moved at will, which makes new steps.
        backend: of `torch.compile`; "eager" runs the recorded graph as it is, for tests.

    Raises:
        ConfigError: at the first call of a form: a potential that cannot be compiled, or one whose compiled step
            computes something else.
    """

    def __init__(self, potential: Potential, *, backend: str = "inductor") -> None:
        super().__init__()
        if not isinstance(potential, Potential):
            raise ConfigError("only potentials are compiled", expected="Potential", got=type(potential).__name__)
        self.potential, self.backend = potential, backend
        self.seconds: dict[str, float] = {}
        self._steps: dict[_Key, Callable[[Graph], Sequence[Tensor]]] = {}
        self._checked: Tensor | None = None

    @property
    def config(self) -> dict[str, object]:
        return {"compiled": self.backend, **self.potential.config}

    def forward(
        self, graph: Graph, *, forces: bool = True, stress: bool = False, create_graph: bool = False
    ) -> Prediction:
        """As `Potential.forward`."""
        if not (forces or stress) or not fits(graph):
            return cast(Prediction, self.potential(graph, forces=forces, stress=stress, create_graph=create_graph))
        self._check(graph, stress=stress)
        form = Form.of(graph, stress=stress, training=create_graph)
        step = self._step(form, many=has_many_pairs(graph))
        with torch.set_grad_enabled(create_graph):
            energy, node_energy, force, *virial = step(graph)
            value = virial[0] / torch.linalg.det(graph.cell).abs()[:, None, None] if stress else None
        return Prediction(energy, node_energy, force if forces else None, value)

    def prepare(self, form: Form, *, many: bool = False) -> float:
        """Compiles and checks the step of a form now, for `many` pairs or few, which in training is the same; the
        seconds that it took.
        """
        self._step(form, many=many)
        return self.seconds[str(form)]

    def _check(self, graph: Graph, *, stress: bool) -> None:
        """The checks of the plain potential that look at values, which a compiled step leaves out."""
        if graph.numbers is not self._checked:
            self.potential.species(graph.numbers)
            self._checked = graph.numbers
        if stress and bool((torch.linalg.det(graph.cell) == 0).any()):
            raise GeomolError("stress of a structure without a cell", remedy="give it three lattice vectors")

    @cached_property
    def _has_separable(self) -> bool:
        form = Form(periodic=False, single=True, stress=False, training=False)
        graphs = sample_graphs(self.potential, form)
        return trace_step(self.potential, graphs[0], form, whole=WHOLE[True]).has_separable

    @cached_property
    def _weight(self) -> Tensor | None:
        """One of the weights: to go through all modules at every call would cost as much as a small model."""
        return next((p for p in self.potential.parameters() if p.is_floating_point()), None)

    def _step(self, form: Form, *, many: bool) -> Callable[[Graph], Sequence[Tensor]]:
        device = torch.device("cpu") if self._weight is None else self._weight.device
        dtype = self.potential.dtype if self._weight is None else self._weight.dtype
        whole = WHOLE[(many or form.training) and device.type == "cpu" and self._has_separable]
        key = (form, dtype, device, whole)
        if key not in self._steps:
            start = time.perf_counter()
            self._steps[key] = compile_step(self.potential, form, backend=self.backend, whole=whole)
            self.seconds[str(form)] = time.perf_counter() - start
            _log.info("compiled for %s and checked in %.0f s", form, self.seconds[str(form)])
        return self._steps[key]

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled code, which a copy makes for itself."""
        state = {**self.__dict__, "_steps": {}, "_checked": None}
        state.pop("_weight", None)
        return state


def compile_step(
    potential: Potential, form: Form, *, backend: str = "inductor", whole: Collection[str] = ()
) -> Callable[[Graph], Sequence[Tensor]]:
    """Traces, compiles and checks the step of one form, with the convolutions in `whole` as one operator.

    Raises:
        ConfigError: see `CompiledPotential`.
    """
    graphs = sample_graphs(potential, form)
    if potential.dtype != torch.float64:
        exact = copy.deepcopy(potential).double()
        check_step(exact, runner(trace_step(exact, graphs[0], form, whole=whole), None, form), form, graphs)
    step = runner(trace_step(potential, graphs[0], form, whole=whole), backend, form)
    with without_deprecations():  # the first call compiles
        check_step(potential, step, form, graphs)
    return step


def runner(traced: Traced, backend: str | None, form: Form) -> Callable[[Graph], Sequence[Tensor]]:
    """A traced step as a function of a graph: compiled, or as it was recorded (None)."""
    function = compiled_module(traced, backend)

    def step(graph: Graph) -> Sequence[Tensor]:
        with torch.set_grad_enabled(form.training):
            return function(*traced.arguments(graph))

    return step


def compiled_module(traced: Traced, backend: str | None) -> Callable[..., Sequence[Tensor]]:
    """A traced step as a function of its arguments: compiled, or as it was recorded (None)."""
    if backend is None:
        return traced.module
    if backend != "inductor":
        return torch.compile(traced.module, dynamic=True, fullgraph=True, backend=backend)
    # the module is ours alone and never changes: looking through it before each call would take half a millisecond
    options: dict[str, str | int | bool | Callable[..., Any]] = {
        "guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe,
        # on a CPU sums over pairs would be atomic additions of several threads, in another order at every call
        "cpp.threads": 1,
    }
    return torch.compile(traced.module, dynamic=True, fullgraph=True, options=options)
