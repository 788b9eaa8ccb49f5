"""The symmetry audit of a property model: numbers that must not change, or a vector that turns with the structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ase import Atoms
from jaxtyping import Float
from torch import Tensor

from geomol.checks.audit import fixed, off_the_grid, reseeder
from geomol.checks.audit_points import scalar_layers
from geomol.checks.place import asked_there
from geomol.checks.systems import symmetric_molecules, with_elements
from geomol.graph import Graph, build_graph
from geomol.properties import PropertyModel
from geomol.symmetry.actions import Kind
from geomol.symmetry.audit import Audit, Effort, audit

SPREADS = "spreads"  # the unit: how much the target varies over the training data


def _silent(fraction: float, text: str) -> None:
    return None


class PropertyOutputs:
    """Each target by name, in units of its spread, without mean and references: beside these any error would vanish."""

    def __init__(self, model: PropertyModel) -> None:
        self.model = model

    @property
    def kinds(self) -> dict[str, Kind]:
        """How the targets transform."""
        form = "vector" if self.model.vector else "scalar"
        return {target.name: Kind(form, "structure", SPREADS) for target in self.model.targets}  # type: ignore[arg-type]

    def __call__(self, graph: Graph) -> dict[str, Tensor]:
        return asked_there(self.model, self._outputs, graph)

    def _outputs(self, graph: Graph) -> dict[str, Tensor]:
        told = self.model.standardised(graph)
        if self.model.vector:
            return {self.model.targets[0].name: told}
        return {target.name: told[:, k] for k, target in enumerate(self.model.targets)}

    def labels(self, values: Float[Tensor, "S D"], graph: Graph) -> dict[str, Tensor]:
        """True values in the numbers of the outputs."""
        spreads = self.model.spreads(values.device)
        if self.model.vector:
            return {self.model.targets[0].name: values / spreads}
        told = (values - self.model.offsets(graph)) / spreads
        return {target.name: told[:, k] for k, target in enumerate(self.model.targets)}


def audit_properties(
    model: PropertyModel,
    structures: Sequence[Atoms],
    *,
    effort: Effort | None = None,
    values: Float[Tensor, "S D"] | None = None,
    on_progress: Callable[[float, str], None] = _silent,
) -> Audit:
    """Hold a property model to the symmetry that it claims, target by target.

    Args:
        model: to be audited.
        structures: typical of what it is used on; a handful is enough.
        effort: how much to measure.
        values: what the targets of the structures are, a column each (or the three of a vector), in their own units,
            for orbits of the error.
        on_progress: called with the part that is done and what is being done.
    """
    graph = off_the_grid(build_graph(list(structures), model.cutoff))
    molecules = [with_elements(atoms, model.elements) for atoms in symmetric_molecules().values() if len(atoms) < 20]
    outputs = PropertyOutputs(model)
    with fixed(model):
        return audit(
            outputs,
            graph,
            outputs.kinds,
            claim=model.symmetry,
            effort=effort,
            labels=None if values is None else outputs.labels(values.to(graph.pos), graph),
            layers=scalar_layers(outputs, graph, model.backbone, tuple(outputs.kinds)),
            special=build_graph(molecules, model.cutoff),
            reseed=reseeder(model) if model.symmetry.stochastic else None,
            precision=model.dtype,
            on_progress=on_progress,
        )
