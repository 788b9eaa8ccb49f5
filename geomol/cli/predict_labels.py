"""`geomol predict` of clouds: a table of classes, or of the parts of points."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geomol.cli.output import console_for, write_json, write_rows
from geomol.data import Clouds
from geomol.labels import LabelModel
from geomol.train import clouds_for, labels_of


def predict_labels(
    model: LabelModel, data: str, out: Path, *, split: str | None, votes: int, json_file: str | None
) -> None:
    """A row for each cloud with the probability of every class, or for each point, with its place in the coordinates of
    its file, with its likeliest part.
    """
    clouds = clouds_for(model, data)
    clouds, found = labels_of(model, clouds if split is None else clouds.split(split), votes=votes)
    names = names_of(clouds)
    labels = [model.names[k] for k in found.argmax(axis=1)]
    if model.level == "cloud":
        rows = ([name, label, *row] for name, label, row in zip(names, labels, found.tolist(), strict=True))
        write_rows(out, ["cloud", "class", *model.names], rows)
    else:
        owner = np.repeat(np.arange(len(clouds)), clouds.sizes)
        point = np.arange(len(owner)) - clouds.ptr[owner]
        every = zip(owner, point, clouds.pos_in_source.tolist(), labels, found.max(axis=1).tolist(), strict=True)
        rows = ([names[cloud], number, *place, label, best] for cloud, number, place, label, best in every)
        write_rows(out, ["cloud", "point", "x", "y", "z", "part", "probability"], rows)
    console_for(json_file).print(f"{len(clouds)} clouds: {out}", soft_wrap=True)
    write_json({"names": names, "ptr": clouds.ptr, "labels": labels, "probabilities": found}, json_file)


def names_of(clouds: Clouds) -> list[str]:
    """Names of clouds, or their numbers."""
    return list(clouds.names) or [str(k) for k in range(len(clouds))]
