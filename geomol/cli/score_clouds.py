"""The part of `geomol score` for point clouds: `geomol score clouds.npz --reference modelnet10/chair`."""

from __future__ import annotations

import numpy as np
from rich.markup import escape
from rich.table import Table

from geomol.cli.output import console_for, write_json
from geomol.data import Clouds
from geomol.data.cloud_categories import load_category
from geomol.errors import ConfigError, DataError
from geomol.generate.cloud_metrics import CloudScore, chamfer_distances, cloud_score
from geomol.generate.cloud_reference import common_size, comparable

GENERATED_SEED, REFERENCE_SEED, DATA_SEED = 1, 2, 3


def score_cloud_file(
    file: str,
    *,
    reference: str | None,
    num: int | None = None,
    rotation: str = "none",
    json_file: str | None = None,
) -> dict[str, CloudScore]:
    """Chamfer-based MMD, COV and 1-NNA of a file of clouds against the test clouds of a source, and, as the data row,
    of the source's training clouds against the same: what a perfect generator would get.

    All sets get one size, by random choice from the larger ones; all clouds have as many points as the generated ones
    and are centred on their mean. Formulas: see `geomol.generate.cloud_metrics.cloud_score`.

    Args:
        file: .npz of clouds of one size.
        reference: a name or file, see `load_category`, with test clouds; without splits all its clouds are used.
        num: clouds of each set at most.
        rotation: random rotations of all clouds, for generators that know no pose: "none", "z" or "so3".

    Raises:
        ConfigError: no reference. DataError, InputError: clouds that cannot be read or compared.
    """
    if reference is None:
        raise ConfigError("point clouds are scored against others", remedy="give --reference, such as modelnet10/chair")
    made = load_category(file)
    points = common_size(made)
    source = load_category(reference, num_points=points)
    tested = source.split("test") if "test" in source.splits else source
    trained = source.split("train") if "train" in source.splits else None
    sets = [made, tested] + ([] if trained is None else [trained])
    size = min(len(some) for some in sets) if num is None else num
    if size > (least := min(len(some) for some in sets)) or size < 2:
        raise DataError("not enough clouds", where=reference, expected=f"2 to {least} in each set", got=str(size))
    chosen = _chosen(made, size, points, rotation)
    against = comparable(tested, num=size, num_points=points, rotation=rotation, seed=REFERENCE_SEED)
    reference_distances = chamfer_distances(against)
    scores = {"generated": _score(chosen, against, reference_distances)}
    if trained is not None:
        data = comparable(trained, num=size, num_points=points, rotation=rotation, seed=DATA_SEED)
        scores["training data"] = _score(data, against, reference_distances)
    _print(file, f"{tested.name}, {size} clouds of {points} points, rotation {rotation}", scores, json_file)
    write_json(
        {
            "file": file,
            "reference": tested.name,
            "points": points,
            "rotation": rotation,
            **{name: score.figures() for name, score in scores.items()},
        },
        json_file,
    )
    return scores


def _chosen(made: Clouds, size: int, points: int, rotation: str) -> list[np.ndarray]:
    return comparable(made, num=size, num_points=points, rotation=rotation, seed=GENERATED_SEED)


def _score(clouds: list[np.ndarray], against: list[np.ndarray], reference: np.ndarray) -> CloudScore:
    return cloud_score(chamfer_distances(clouds), chamfer_distances(clouds, against), reference)


def _print(file: str, title: str, scores: dict[str, CloudScore], json_file: str | None) -> None:
    console = console_for(json_file)
    table = Table(box=None, pad_edge=False)
    table.add_column("Chamfer distance", no_wrap=True)
    for name in scores:
        table.add_column(name, justify="right", no_wrap=True)
    rows = {
        "MMD × 10³ (lower is better)": [f"{1e3 * s.mmd:.2f} ± {1e3 * s.mmd_error:.2f}" for s in scores.values()],
        "COV % (higher is better)": [f"{100 * s.coverage:.1f}" for s in scores.values()],
        "1-NNA % (50 is best)": [f"{100 * s.one_nna:.1f} ± {100 * s.one_nna_error:.1f}" for s in scores.values()],
    }
    for name, values in rows.items():
        table.add_row(name, *values)
    console.print(f"[bold]{escape(file)}[/] against {escape(title)}", soft_wrap=True)
    console.print(table)
