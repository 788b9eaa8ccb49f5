"""Articulated objects that are bent further in the test than in training: does a model know parts, or postures?

    python examples/configs/parts/hold_out_joints.py runs/joints
    geomol train examples/configs/parts/t3-part-frames.toml data.source=runs/joints/far.npz
    geomol eval runs/parts-t3-part-frames/model.safetensors runs/joints/near.npz --split test

Every joint angle of "near" lies in the middle half of its range. "far" is the same to train on, and has the same
objects in its test part, point for point, but with every joint in the outer quarters of its range.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from geomol.data import Clouds, write_clouds
from geomol.data.clouds import join_clouds
from geomol.data.made_parts import CLASS_PARTS, JOINT_RANGES, KINDS, PART_NAMES, Design, draw_design, sample_object

SHARES = (0.7, 0.1, 0.2)


def bent(design: Design, *, far: bool) -> Design:
    """The object with its joints half as far from the middle of their range, or that and another half range on."""
    joints = []
    for angle, (low, high) in zip(design.joints, JOINT_RANGES[design.kind], strict=True):
        middle, half = (low + high) / 2, (high - low) / 2
        away = (angle - middle) / half  # in [−1, 1]
        joints.append(middle + half * (away / 2 + far * (0.5 if away >= 0 else -0.5)))
    return replace(design, joints=tuple(joints))


def make_bent(num: int, num_points: int, seed: int, *, far_test: bool) -> Clouds:
    """Objects in turn, in the middle half of their joints; the test part, if asked for, in the outer quarters."""
    bounds = np.round(np.cumsum([0.0, *SHARES]) * num).astype(np.int64)
    pos, normals, part = [], [], []
    for i in range(num):
        random = np.random.default_rng([seed, i])
        design = bent(draw_design(KINDS[i % len(KINDS)], random), far=far_test and i >= bounds[2])
        points, slopes, parts = sample_object(design, num_points, random)
        points -= points.mean(axis=0)
        pos.append(points / np.linalg.norm(points, axis=1).max())
        normals.append(slopes)
        part.append(parts)
    name = "joints-far" if far_test else "joints-near"
    flat, ptr, slopes_of_all = join_clouds(pos, name=name, normals=normals)
    return Clouds(
        name=name,
        pos=flat,
        ptr=ptr,
        normals=slopes_of_all,
        part=np.concatenate(part),
        label=np.arange(num) % len(KINDS),
        class_names=KINDS,
        part_names=PART_NAMES,
        class_parts=CLASS_PARTS,
        splits={
            key: np.arange(a, b) for key, a, b in zip(("train", "valid", "test"), bounds[:-1], bounds[1:], strict=True)
        },
        source=f"made by geomol: articulated objects of primitives, joints held out of training, seed {seed}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Write near.npz and far.npz into a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--points", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for far in (False, True):
        clouds = make_bent(asked.num, asked.points, asked.seed, far_test=far)
        print(write_clouds(asked.folder / ("far.npz" if far else "near.npz"), clouds))


if __name__ == "__main__":
    main()
