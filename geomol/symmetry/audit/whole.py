"""The whole audit of one model on some structures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from geomol.graph import Graph
from geomol.graph.repeat import repeat_structures
from geomol.models import Symmetry
from geomol.symmetry.actions import Kind, about
from geomol.symmetry.audit import bars, rows
from geomol.symmetry.audit.expectation import ExpectedError, expected_errors
from geomol.symmetry.audit.finite import Family, FiniteError, families, finite_errors
from geomol.symmetry.audit.jumps import Scan, equal_axes_path, rotation_path, scan
from geomol.symmetry.audit.layers import layer_shares
from geomol.symmetry.audit.lie import LieDerivative, centres, choose_method, lee, lie_derivatives
from geomol.symmetry.audit.model import Model, run, scale_of
from geomol.symmetry.audit.net_force import identity_errors, momentum
from geomol.symmetry.audit.orbits import Orbits, circle_elements, orbit, sphere_axes, sphere_elements
from geomol.symmetry.audit.result import FAIL, Audit, Pictures, Row, Share
from geomol.symmetry.audit.verdict import holds_to_rounding, verdict
from geomol.symmetry.groups import GROUPS, Element, random_permutation, rotation_generators, translation_generators

_CIRCLE = 48
_NOISE = {torch.float64: 1e-11, torch.float32: 1e-5}  # of jumps, relative; what rounding can do


def _silent(fraction: float, text: str) -> None:
    return None


@dataclass(frozen=True, eq=False)
class Layers:
    """Where to look inside a model.

    Attributes:
        model: the model, or the part of it whose outputs are not themselves derivatives (the energy, not the forces).
        modules: layers in the order in which they run.
        actions: "invariant" (the default) or "vector" for each.
        outputs: those of `model` to be split.
    """

    model: Model
    modules: Mapping[str, nn.Module]
    actions: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("energy",)


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        num_elements: random motions of each kind.
        num_axes: points of the sphere map; 0 leaves pictures out.
        num_paths: structures whose paths are searched for jumps.
        num_draws: predictions averaged for a model that is symmetric on average.
        seed: of all random numbers.
    """

    num_elements: int = 24
    num_axes: int = 122
    num_paths: int = 4
    num_draws: int = 48
    seed: int = 0


def audit(
    model: Model,
    graph: Graph,
    kinds: Mapping[str, Kind],
    *,
    claim: Symmetry,
    effort: Effort | None = None,
    labels: Mapping[str, Tensor] | None = None,
    layers: Layers | None = None,
    special: Graph | None = None,
    reseed: Callable[[int], None] | None = None,
    precision: torch.dtype = torch.float64,
    on_progress: Callable[[float, str], None] = _silent,
) -> Audit:
    """Measure the symmetry of a model and hold it to what it claims.

    Args:
        model: gives named outputs for a graph; where it gives "energy" and "forces", these are held to each other.
        graph: the structures, in the precision of the audit; positions should be float64.
        kinds: how each output transforms (see `TARGETS`); only these are looked at.
        claim: what the model says of itself.
        effort: how much to measure.
        labels: what the outputs should be, for orbits of the error.
        layers: where to look for the layer that breaks the symmetry.
        special: symmetric structures, on which frames are not unique; only rotations and reflections are tried there.
        reseed: for a model with random poses, sets their random numbers.
        precision: that the model computes in, which decides the bars.
        on_progress: called with the part that is done and what is being done.
    """
    effort = Effort() if effort is None else effort
    work = _Work(model, graph, dict(kinds), claim, effort, precision)
    work.finite(special, lambda part, name: on_progress(0.35 * part, name))
    on_progress(0.35, "Lie derivatives")
    work.lie()
    shares = [] if layers is None else _shares(layers, graph, kinds)
    on_progress(0.5, "paths")
    scans = work.paths()
    on_progress(0.7, "orbits")
    pictures = work.pictures(labels, scans)
    expectation = work.expectation(reseed)
    on_progress(1.0, "done")
    held = holds_to_rounding(work.rows, work.exact)
    single = precision == torch.float64 and len(held) < len(holds_to_rounding(work.rows, work.single)) == len(
        bars.CLAIMS
    )
    return Audit(
        claim=claim,
        rows=work.rows,
        verdict=verdict(work.rows, claim, held, work.found, single=single and not claim.stochastic),
        passed=all(row.status != FAIL for row in work.rows),
        measured_group=bars.group_of(held),
        kinds=dict(kinds),
        lie_rms={name: {d.generator.name: d.rms for d in work.found if d.output == name} for name in kinds},
        lee={name: lee(work.found, name, graph, kind) for name, kind in kinds.items()},
        method=work.method,
        shares=shares,
        expectation=expectation,
        settings={
            "num_structures": graph.num_graphs,
            "num_elements": effort.num_elements,
            "seed": effort.seed,
            "precision": str(precision).removeprefix("torch."),
        },
        pictures=pictures,
    )


class _Work:
    """What the parts of one audit share, and the rows that they add."""

    def __init__(
        self,
        model: Model,
        graph: Graph,
        kinds: dict[str, Kind],
        claim: Symmetry,
        effort: Effort,
        precision: torch.dtype,
    ) -> None:
        self.model, self.graph, self.kinds, self.claim, self.effort = model, graph, kinds, claim, effort
        self.precision = precision
        self.values = run(model, graph, kinds)
        self.scales = {name: scale_of(kind, self.values[name], graph) for name, kind in kinds.items()}
        self.families = families(graph, num=effort.num_elements, seed=effort.seed)
        self.rows: list[Row] = []
        self.exact: dict[int, float] = {}  # by row: the bar of an exact model in this precision …
        self.single: dict[int, float] = {}  # … and in single precision, near the origin
        self.errors: list[FiniteError] = []
        self.found: list[LieDerivative] = []
        self.method = ""

    def finite(self, special: Graph | None, on_progress: Callable[[float, str], None]) -> None:
        """Rows of all families on the structures, and of rotations and reflections on the symmetric ones."""
        for k, family in enumerate(self.families):
            on_progress(k / len(self.families), family.name)
            self.errors += self._one(family, self.graph, "")
        if special is not None:
            for family in families(special, num=self.effort.num_elements, seed=self.effort.seed)[:3]:
                self._one(family, special, " of symmetric structures")

    def _one(self, family: Family, graph: Graph, suffix: str) -> list[FiniteError]:
        errors = finite_errors(self.model, graph, self.kinds, family)
        for error in errors:
            kind = self.kinds[error.output]
            row = rows.finite_row(error, family, kind, self.claim, self.precision, special=bool(suffix))
            if family.elementary:
                exact = Symmetry(group="E(3)", exact=True, smooth=True)
                for precision, table in ((self.precision, self.exact), (torch.float32, self.single)):
                    if table is self.exact or not bars.is_far(family.name):
                        bar = bars.finite_bar(family.claim, family.name, kind, exact, precision)
                        table[len(self.rows)] = bar * (1 + error.scale_there)
            self.rows.append(replace(row, check=row.check + suffix))
        return errors

    def lie(self) -> None:
        """Lie derivatives, momentum and the identities between them."""
        self.found, self.method = lie_derivatives(self.model, self.graph, self.kinds, scale="energy" in self.kinds)
        self.rows += rows.lie_rows(self.found, self.kinds, self.scales, self.claim, self.precision)
        if "forces" not in self.kinds:
            return
        forces = self.values["forces"]
        self.rows += rows.momentum_rows(momentum(self.graph, forces), self.graph, self.claim, self.precision)
        if "energy" in self.kinds:
            self.rows += rows.identity_rows(identity_errors(self.graph, forces, self.found), self.graph)

    def paths(self) -> list[Scan]:
        """Search turns about random axes, and stretches through equal axes, for jumps (not among random poses)."""
        if self.claim.stochastic:
            return []
        rng = torch.Generator().manual_seed(self.effort.seed + 1)
        noise = _NOISE.get(self.precision, 1e-5)
        scans = []
        for k in range(min(self.effort.num_paths, self.graph.num_graphs)):
            one, _ = repeat_structures(self.graph, torch.tensor([k]))
            axis = torch.randn(3, generator=rng, dtype=torch.float64)
            scans += scan(rotation_path(self.model, one, self.kinds, axis), noise=noise)
            stretch = equal_axes_path(self.model, one, self.kinds)
            if stretch is not None:
                scans += scan(stretch, noise=noise)
        self.rows += rows.scan_rows(scans, self.kinds, self.scales, self.claim, self.precision)
        return scans

    def pictures(self, labels: Mapping[str, Tensor] | None, scans: list[Scan]) -> Pictures:
        """Orbits over random rotations, over the sphere of axes, and around the worst of these."""
        turns = self.families[0].elements
        orbits = orbit(self.model, self.graph, self.kinds, turns, labels=labels)
        if self.effort.num_axes == 0:
            return Pictures(errors=self.errors, orbits=orbits, scans=scans)
        axes = sphere_axes(self.effort.num_axes)
        here = self.values  # errors are distances from the prediction in the pose of the data
        sphere = orbit(self.model, self.graph, self.kinds, sphere_elements(self.graph, axes), labels=here)
        worst = axes[int(self._main(sphere).aggregate().nan_to_num(torch.inf).argmax())]
        circle = orbit(self.model, self.graph, self.kinds, circle_elements(self.graph, worst, _CIRCLE), labels=here)
        return Pictures(self.errors, axes, sphere, worst, circle, orbits, scans)

    def _main(self, found: Mapping[str, Orbits]) -> Orbits:
        return found["forces"] if "forces" in found else next(iter(found.values()))

    def expectation(self, reseed: Callable[[int], None] | None) -> list[ExpectedError]:
        """For random poses: whether their average is symmetric."""
        if reseed is None or not self.claim.stochastic:
            return []
        chosen = self._mixed_elements(self.effort.num_draws)
        found = expected_errors(self.model, reseed, self.graph, self.kinds, chosen)
        self.rows += [rows.expected_row(entry, self.claim) for entry in found]
        return found

    def _mixed_elements(self, num: int) -> list[Element]:
        """Elements of the claimed group, each with a renumbering."""
        rng = torch.Generator().manual_seed(self.effort.seed + 2)
        group = GROUPS[self.claim.group].sample(num, generator=rng)
        centre = centres(self.graph)
        found = []
        for rotation, shift in zip(group.rotation, group.translation, strict=True):
            element = about(rotation, centre)
            order = random_permutation(self.graph, generator=rng)
            found.append(Element(element.rotation, element.translation + shift.to(centre), order))
        return found


def _shares(layers: Layers, graph: Graph, kinds: Mapping[str, Kind]) -> list[Share]:
    """Root mean square share of every layer, for the translations and for the rotations."""
    wanted = {name: kinds[name] for name in layers.outputs}
    method = choose_method(layers.model, graph, wanted)
    found = []
    for what, generators in (("translations", translation_generators()), ("rotations", rotation_generators())):
        parts = [
            layer_shares(layers.model, graph, wanted, g, layers.modules, actions=layers.actions, method=method)
            for g in generators
        ]
        for name in wanted:
            stacked = {layer: torch.stack([part[name][layer] for part in parts]) for layer in parts[0][name]}
            rms = {layer: float(value.square().mean().sqrt()) for layer, value in stacked.items()}
            total = float(torch.stack(list(stacked.values())).sum(0).square().mean().sqrt())
            found.append(Share(name, what, rms, total))
    return found
