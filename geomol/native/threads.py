"""Edges shared among threads, for C functions that release Python's lock."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

SMALLEST_WORK = 2**24  # products of a thread, about 2 ms: with less, waking another one takes as long as it saves

COST_APART = 6  # of making and adding up one of the numbers that threads sum apart, in products


def cuts(receivers: Int[Tensor, " E"], *, work_per_edge: int, apart: int = 0) -> list[tuple[int, int]]:
    """Parts of edges, no receiver in two of them: as many as PyTorch has threads and are worth it. One where the edges
    are not sorted by receiver.

    Args:
        work_per_edge: products.
        apart: numbers that each part but the first makes, and that are added up in the end.
    """
    edges = len(receivers)
    work = edges * work_per_edge
    parts = min(torch.get_num_threads(), work // SMALLEST_WORK)
    if apart:  # work / parts + parts × cost of the numbers is least
        parts = min(parts, math.isqrt(work // (COST_APART * apart)))
    if parts < 2 or bool((receivers[1:] < receivers[:-1]).any()):
        return [(0, edges)]
    places = torch.arange(1, parts) * edges // parts
    starts = torch.searchsorted(receivers, receivers[places])  # of the receivers there
    bounds = [0, *starts.tolist(), edges]
    return [(first, last) for first, last in pairwise(bounds) if first < last]


def share(
    run: Callable[..., None],
    request: Callable[[int, int, Mapping[str, Tensor]], Any],
    parts: Sequence[tuple[int, int]],
    places: Mapping[str, Tensor],
    apart: Collection[str] = (),
) -> None:
    """Calls a C function for all parts of the edges, all but the first in threads of their own.

    Args:
        request: makes what the function is asked, of the first and last edge and the tensors that it writes. It has a
            field `stranger`, -1 or the edge between nodes that are not there.
        places: where results are to be; of those in `apart` each thread fills its own, and all are added up in the
            order of the parts.

    Raises:
        IndexError: an edge between nodes that are not there.
    """
    own = [
        places if k == 0 else {**places, **{key: torch.zeros_like(places[key]) for key in apart}}
        for k in range(len(parts))
    ]
    requests = [request(first, last, to) for (first, last), to in zip(parts, own, strict=True)]
    others: list[Future[None]] = []
    try:
        left = requests[1:]
        with suppress(RuntimeError):  # no more threads, or the interpreter is about to end
            while left:
                others.append(_pool().submit(run, ctypes.byref(left[0])))
                left = left[1:]
        for asked in [requests[0], *left]:
            run(ctypes.byref(asked))
    finally:
        _wait(others)
    for asked in requests:
        if asked.stranger >= 0:
            raise IndexError(f"edge {asked.stranger} is between nodes that are not there")
    for to in own[1:]:
        for key in apart:
            places[key].add_(to[key])


def _wait(others: Sequence[Future[None]]) -> None:
    """Until all have ended, whatever interrupts: they write to memory that the caller gives back after this."""
    interrupted: BaseException | None = None
    while not all(other.done() for other in others):
        try:
            wait(others)
        except BaseException as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="geomol")


if hasattr(os, "register_at_fork"):  # threads stay behind in the parent
    os.register_at_fork(after_in_child=_pool.cache_clear)
