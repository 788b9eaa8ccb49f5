"""Terms of the loss that a wrapper computes on the way."""

from __future__ import annotations

from torch import Tensor


class LastPenalty:
    """Holds the penalty of the last forward pass; copies of a module start without one.

    A tensor with a history cannot be deep-copied, and modules are (for moving averages of their weights).
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> LastPenalty:
        return LastPenalty()

    def __getstate__(self) -> dict[str, None]:
        return {"value": None}
