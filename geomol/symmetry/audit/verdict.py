"""The verdict in words: what holds, what is broken, and which directions of space a broken model singles out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geomol.models import Symmetry
from geomol.symmetry.audit import bars
from geomol.symmetry.audit.lie import LieDerivative
from geomol.symmetry.audit.result import FAIL, Row

_ORDER = (*bars.CLAIMS, "momentum", "gradient", "continuity", "smoothness")
_SUBGROUP = 1e-5  # relative; the rounding of a grid that was stored in single precision
_GENERIC = 1e-9  # relative
_HOLDS = 1e-6  # a direction along which the Lie derivative is this much smaller than along the others is kept


def holds_to_rounding(rows: Sequence[Row], exact: dict[int, float]) -> set[str]:
    """Parts of the group whose finite errors are all within the bars of an exact model.

    Args:
        rows: of the audit.
        exact: that bar, for the index of each row with a finite error.
    """
    held = set(bars.CLAIMS)
    for index, bar in exact.items():
        if not rows[index].value <= bar:
            held.discard(rows[index].claim)
    return held


def invariant_directions(lie: Sequence[LieDerivative], kind: str) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) and axes (columns) of ⟨L_a · L_b⟩ over the generators of one kind.

    An eigenvalue of 0 belongs to an axis about (or along) which the model is symmetric.
    """
    outputs = list(dict.fromkeys(d.output for d in lie))
    total = torch.zeros(3, 3, dtype=torch.float64)
    for name in outputs:
        rates = torch.stack([d.value.double().flatten() for d in lie if d.output == name and d.generator.kind == kind])
        gram = rates @ rates.T
        size = gram.trace()
        total += gram / size if size > 0 else gram
    values, axes = torch.linalg.eigh(total.nan_to_num())
    return values, axes


def describe_axes(lie: Sequence[LieDerivative], kind: str) -> str:
    """ " (those about (0, 0, 1) hold)" where some of the rotations (or translations) of a broken model hold."""
    values, axes = invariant_directions(lie, kind)
    kept = int((values.clamp(min=0).sqrt() < _HOLDS * values[-1].clamp(min=1e-300).sqrt()).sum())
    word = "about" if kind == "rotation" else "along"
    if kept == 1:
        return f" (those {word} {_direction(axes[:, 0])} hold)"
    if kept == 2:
        return f" (only those {word} {_direction(axes[:, 2])}; the others hold)"
    return ""


def _direction(axis: Tensor) -> str:
    axis = axis * axis[axis.abs().argmax()].sign()
    return "(" + ", ".join(f"{round(value, 2) + 0.0:g}" for value in axis.tolist()) + ")"


def verdict(
    rows: Sequence[Row], claim: Symmetry, held: set[str], lie: Sequence[LieDerivative], *, single: bool = False
) -> str:
    """A few sentences, such as "The claim E(3), exact, does not hold: rotations are broken (…).".

    Args:
        rows, claim, lie: what was found, and what was claimed.
        held: parts of the group that hold to rounding.
        single: all errors near the origin are within those of single precision.
    """
    failed = [row for row in rows if row.status == FAIL]
    kinds = ["on average" if claim.stochastic else "exact" if claim.exact else "approximate"]
    kinds += [] if claim.continuous else ["not continuous"]
    name = f"The claim {_group(claim.group)}, {', '.join(kinds)},"
    if not failed:
        return f"{name} holds. {_held_sentence(held, claim, rows)}{_admitted(rows, claim)}"
    text = f"{name} does not hold: {_broken_words(failed, claim, lie)}. {_held_sentence(held, claim, rows)}"
    text += _admitted(rows, claim)
    return f"{text} Near the origin all errors are within those of single precision." if single else text


def _admitted(rows: Sequence[Row], claim: Symmetry) -> str:
    """Jumps that a model does not deny."""
    jumps = [row for row in rows if row.claim == "continuity" and row.value > 0]
    return (
        ""
        if claim.continuous or not jumps
        else f" As it admits, the output {_clause('continuity', jumps, claim, [])[1]}."
    )


def _group(name: str) -> str:
    return "of no symmetry but permutations" if name == "1" else name


def _broken_words(failed: Sequence[Row], claim: Symmetry, lie: Sequence[LieDerivative]) -> str:
    """What failed, parts of one fate together."""
    clauses: dict[str, list[str]] = {}
    for part in sorted({row.claim for row in failed}, key=_ORDER.index):
        bad = [row for row in failed if row.claim == part]
        subject, fate = _clause(part, bad, claim, lie)
        clauses.setdefault(fate, []).append(subject)
    return "; ".join(f"{_join(subjects)} {fate}" for fate, subjects in clauses.items())


def _clause(part: str, bad: Sequence[Row], claim: Symmetry, lie: Sequence[LieDerivative]) -> tuple[str, str]:
    """Subject and predicate."""
    if part == "gradient":
        return "forces", "are not the gradient of the energy"
    if part == "momentum":
        return _join(list(dict.fromkeys(row.check for row in bad))), "must vanish and do not"
    if part == "smoothness":
        return "the output", "jumps where a pair crosses the cutoff"
    if part == "continuity":
        paths = " and along ".join(dict.fromkeys(row.check.removeprefix("jumps along ") for row in bad))
        return "the output", f"jumps along {paths}, by {_largest_share(bad)}"
    if part in ("rotations", "reflections") and not claim.exact:
        return part, "are above the bar of an approximate symmetry"
    if all("symmetric structures" in row.check for row in bad):
        return f"{part} of symmetric structures", "are broken"
    axes = describe_axes(lie, part[:-1]) if part in ("rotations", "translations") else ""
    return f"{_which(part, bad)}{axes}", "are broken"


def _which(part: str, bad: Sequence[Row]) -> str:
    """ "translations", or "translations by 1000 Å and translations by 10000 Å" where small ones hold."""
    checks = list(dict.fromkeys(row.check for row in bad))
    whole = part != "translations" or any(not check.startswith((f"{part} by", "periodic")) for check in checks)
    return part if whole or f"{part} by 0.1 Å" in checks else " and ".join(checks)


def _largest_share(bad: Sequence[Row]) -> str:
    worst = max(bad, key=lambda row: row.relative or 0.0)
    return share_in_words(worst.relative or 0.0, worst.output)


def share_in_words(value: float, name: str) -> str:
    """ "1.3 % of the forces", "40 times the energy"."""
    if value >= 10:
        return f"{value:.2g} times the {name}"
    return f"{100 * value:.2g} % of the {name}" if value < 0.995 else f"{100 * value:.0f} % of the {name}"


def _held_sentence(held: set[str], claim: Symmetry, rows: Sequence[Row]) -> str:
    if claim.stochastic:
        found = [row for row in rows if row.check.endswith("on average")]
        if not found:
            return "Single predictions scatter with the random poses."
        worst = max(found, key=lambda row: row.value)
        return f"Averages over poses agree within {worst.value:.2g} standard errors ({worst.detail.split('; ')[1]})."
    names = [part for part in bars.CLAIMS if part in held]
    if not names:
        return "Nothing holds to rounding."
    rest = [part for part in bars.CLAIMS if part not in held]
    text = f"{_join(names).capitalize()} hold to rounding"
    return f"{text}." if not rest else f"{text}; {'; '.join(_sizes(part, rows) for part in rest)}.{_subgroups(rows)}"


def _subgroups(rows: Sequence[Row]) -> str:
    """Point groups whose rotations hold where those between them do not: the mark of a grid of orientations."""
    found = []
    for name in ("octahedral", "icosahedral"):
        errors = [row.relative for row in rows if row.check == f"{name} rotations" and row.relative is not None]
        if errors and max(errors) <= _SUBGROUP:
            found.append(f"{name} group (to {max(errors):.0e})")
    whole = [row.relative or 0.0 for row in rows if row.check == "rotations"]
    if not found or max(whole, default=0.0) <= _SUBGROUP:
        return ""
    return f" The rotations of the {_join(found)} hold."


def _sizes(part: str, rows: Sequence[Row]) -> str:
    """ "rotations are off by 2 % of the energy and 1 % of the forces": the worst E′ of each output."""
    worst: dict[str, float] = {}
    for row in rows:
        is_finite_error = row.claim == part and not row.check.startswith("Lie") and "symmetric" not in row.check
        if is_finite_error and row.relative is not None:
            worst[row.output] = max(worst.get(row.output, 0.0), row.relative)
    if worst and max(worst.values()) < _GENERIC:
        return f"{part} hold on generic structures"
    sizes = [share_in_words(value, name) for name, value in worst.items()]
    return f"{part} are off by {_join(sizes)}" if sizes else f"{part} are off"


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
