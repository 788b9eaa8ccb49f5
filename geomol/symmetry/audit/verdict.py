"""The verdict in words: what holds, what is broken, and which directions of space a broken model singles out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from geomol.models import Symmetry
from geomol.symmetry.audit import bars
from geomol.symmetry.audit.lie import LieDerivative
from geomol.symmetry.audit.result import FAIL, SKIPPED, Row

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


def verdict(rows: Sequence[Row], claim: Symmetry, held: set[str], lie: Sequence[LieDerivative]) -> str:
    """One or two sentences, such as "The claim E(3), exact, does not hold: rotations are broken (…)."."""
    failed = [row for row in rows if row.status == FAIL]
    kinds = ["on average" if claim.stochastic else "exact" if claim.exact else "approximate"]
    kinds += [] if claim.continuous else ["not continuous"]
    name = f"The claim {_group(claim.group)}, {', '.join(kinds)},"
    if not failed:
        return f"{name} holds. {_held_sentence(held, lie, rows)}"
    return f"{name} does not hold: {_broken_words(failed, rows, lie)}. {_held_sentence(held, lie, rows)}"


def _group(name: str) -> str:
    return "of no symmetry but permutations" if name == "1" else name


def _broken_words(failed: Sequence[Row], rows: Sequence[Row], lie: Sequence[LieDerivative]) -> str:
    words = []
    for part in dict.fromkeys(row.claim for row in failed):
        bad = [row for row in failed if row.claim == part]
        if part == "gradient":
            words.append("forces are not the gradient of the energy")
        elif part == "continuity":
            paths = ", ".join(dict.fromkeys(row.check.removeprefix("jumps along ") for row in bad))
            words.append(f"the output jumps along {paths}")
        else:
            axes = describe_axes(lie, part[:-1]) if part in ("rotations", "translations") else ""
            words.append(f"{_which(part, bad, rows)} are broken{axes} {_size(bad)}".rstrip())
    return ", ".join(words)


def _which(part: str, bad: Sequence[Row], rows: Sequence[Row]) -> str:
    """ "translations" where all fail, "translations by 1000 Å, translations by 10000 Å" where only some do."""
    same = {
        row.check for row in rows if row.claim == part and row.status != SKIPPED and not row.check.startswith("net")
    }
    checks = dict.fromkeys(row.check for row in bad)
    failing_motions = [check for check in checks if check in same and "Lie" not in check]
    plain = [c for c in same if "Lie" not in c]
    if part == "translations" and 0 < len(failing_motions) < len(plain) and part not in checks:
        return " and ".join(failing_motions)
    return part


def _size(bad: Sequence[Row]) -> str:
    sized = [row for row in bad if row.relative is not None and row.unit and "Lie" not in row.check]
    if not sized:
        return ""
    worst = max(sized, key=lambda row: row.relative or 0.0)
    return f"by {100 * (worst.relative or 0.0):.2g} % of the {worst.output}"


def _held_sentence(held: set[str], lie: Sequence[LieDerivative], rows: Sequence[Row]) -> str:
    names = [part for part in bars.CLAIMS if part in held]
    rest = [part for part in bars.CLAIMS if part not in held]
    if not names:
        return "Nothing holds to rounding."
    text = f"{_join(names).capitalize()} hold to rounding"
    if not rest:
        return f"{text}."
    sizes = []
    for part in rest:
        found = [r.relative for r in rows if r.claim == part and r.relative is not None and r.unit and r.check == part]
        sizes.append(f"{part} to {100 * max(found):.2g} %" if found else part)
    return f"{text}; not so {_join(sizes)}."


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
