"""Edges shared among threads, for C functions that release Python's lock."""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    calls = [_Once(run, asked) for asked in requests]
    try:
        with suppress(RuntimeError):  # no more threads, or the interpreter is about to end
            for call in calls[1:]:
                _pool().submit(call)
        for call in calls:  # what no other thread has begun is done here
            call()
    finally:
        _wait(calls)
    for asked in requests:
        if asked.stranger >= 0:
            raise IndexError(f"edge {asked.stranger} is between nodes that are not there")
    for to in own[1:]:
        for key in apart:
            places[key].add_(to[key])


class _Once:
    """A call that the first thread to come makes, and no other."""

    def __init__(self, run: Callable[..., None], asked: ctypes.Structure) -> None:
        self._run, self._asked = run, asked
        self._claim, self._ended = threading.Lock(), threading.Event()

    def __call__(self) -> None:
        if self._claim.acquire(blocking=False):
            try:
                self._run(ctypes.byref(self._asked))
            finally:
                self._ended.set()

    def wait(self) -> None:
        """Until it has ended, or at once where nobody has begun it and now nobody will."""
        if self._claim.acquire(blocking=False):
            self._ended.set()
        self._ended.wait()


def _wait(calls: Sequence[_Once]) -> None:
    """Until all have ended, whatever interrupts: they write to memory that the caller gives back after this."""
    interrupted: BaseException | None = None
    left = list(calls)
    while left:
        try:
            left[0].wait()
            left = left[1:]
        except BaseException as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="geomol")


if hasattr(os, "register_at_fork"):  # threads stay behind in the parent
    os.register_at_fork(after_in_child=_pool.cache_clear)
