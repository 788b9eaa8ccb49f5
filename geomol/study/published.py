"""Published figures, to stand beside ours."""

from __future__ import annotations

NBODY = {
    "linear": 0.0819,
    "gnn": 0.0107,
    "egnn": 0.0071,
    "egnn-published": 0.0071,
    "ponita": 0.0043,
    "fa-gnn": 0.0057,
    "gnn-canonical": 0.0043,
    "gnn-probabilistic": 0.00386,
}
"""Mean square error of the positions on the charged five-body benchmark, each paper's own width and number of epochs.

Linear, GNN, EGNN: Satorras et al. 2021, table 2. PONITA: Bekkers et al. 2024. FA-GNN: Puny et al. 2022. GNN in a
learned pose: Kaba et al. 2023. GNN in probabilistic poses: Kim et al. 2023. On the same data, without a counterpart
here: SE(3)-Transformer 0.0244, TFN 0.0155, radial field 0.0104 (Satorras et al. 2021).
"""


def published_figure(name: str, data: str) -> float | None:
    """The published test error for a configuration of that name ("nbody-egnn") on that data set; None if there is
    none.
    """
    if data != "nbody/charged5" or not name.startswith("nbody-"):
        return None
    return NBODY.get(name.removeprefix("nbody-"))
