"""Neighbour lists in PyTorch for large, periodic and batched structures, on any device.

Atoms near a face of their cell are copied to the other side, as often as the cutoff asks, so that what follows knows
nothing of periodicity: it sorts all points by columns along z, and looks for each atom through short stretches of the
columns around it. Cells of any shape, also smaller than the cutoff, need nothing special.

On a CPU, where the machine has a C compiler, `geomol.graph.native_search` gives the same list several times faster, and
on a CUDA device with Triton the kernels of `geomol.ops.triton_cells` do.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomol.errors import InputError
from geomol.graph.bins import sort_points
from geomol.graph.candidates import search_blocks, search_kernels
from geomol.graph.capacity import DEFAULT_MAX_BYTES
from geomol.graph.checks import AXES, MAX_POSITION, check_cutoff
from geomol.graph.images import periodic_images
from geomol.graph.native_search import ROUNDING, Closest, Pairs, cells_in_c, native_pairs
from geomol.graph.record import Graph
from geomol.ops import segment_index
from geomol.ops.backend import use_triton


def cell_pairs(
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    cell: Float[Tensor, "G 3 3"],
    pbc: Bool[Tensor, "G 3"],
    cutoff: float,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Pairs:
    """All pairs with |pos[src] + shift @ cell − pos[dst]| < cutoff within each structure.

    The same list as `neighbour_list`, for all structures at once and without a loop over them: both directions, an
    atom with its own images but not with itself, sorted by (dst, src, shift). Found in float64.

    Args:
        pos: Å; atoms may lie any number of images away.
        ptr: first atom of each structure.
        cell: lattice vectors as rows, Å; rows of open directions are ignored.
        pbc: periodic directions.
        cutoff: Å.
        max_bytes: memory that the lists may take.

    Returns:
        dst (E,), src (E,), both counted over the batch, and shift (E, 3); int64.

    Raises:
        ConfigError: the cutoff is not positive and finite.
        InputError: a position that is not finite.
        CapacityError: the list could exceed `max_bytes`; it is never truncated.
    """
    pos = pos.detach().double()
    _check_positions(pos)
    return search_cells(pos, ptr, cell, pbc, check_cutoff(cutoff), max_bytes=max_bytes)[0]


def search_cells(
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    cell: Float[Tensor, "G 3 3"],
    pbc: Bool[Tensor, "G 3"],
    cutoff: float,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> tuple[Pairs, list[Closest]]:
    """`cell_pairs` of checked positions in float64, and the pairs that are nearer than `TOO_CLOSE`, one of a block."""
    cell = cell.detach().double()
    if pos.device.type == "cpu" and (search := cells_in_c()) is not None:
        pairs, closest = native_pairs(search, pos, ptr, cell, pbc, cutoff, max_bytes=max_bytes)
        return pairs, [] if closest is None else [closest]
    batch = segment_index(ptr, pos.shape[0])
    if len(batch) == 0:
        return (batch, batch, batch.new_zeros(0, 3)), []
    images = periodic_images(pos, batch, cell, pbc, cutoff * ROUNDING, max_bytes=max_bytes)
    bins = sort_points(images, ptr, cutoff * ROUNDING)
    if use_triton(pos) and 3 * images.num_points < torch.iinfo(torch.int32).max:
        return search_kernels(images, bins, batch, cutoff, max_bytes)
    return search_blocks(images, bins, batch, cutoff, max_bytes)


def cell_graph(
    pos: Float[Tensor, "N 3"],
    numbers: Int[Tensor, " N"],
    ptr: Int[Tensor, " P"],
    cell: Float[Tensor, "G 3 3"],
    pbc: Bool[Tensor, "G 3"],
    cutoff: float,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Graph:
    """The graph of structures, equal to `build_graph` of them, made where the positions are; errors of `cell_pairs`."""
    dst, src, shift = cell_pairs(pos, ptr, cell, pbc, cutoff, max_bytes=max_bytes)
    counts = torch.bincount(dst, minlength=pos.shape[0])
    return Graph(
        pos=pos,
        numbers=numbers,
        edge_index=torch.stack([src, dst]),
        edge_ptr=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
        cell_shift=shift,
        cell=cell,
        pbc=pbc,
        batch=segment_index(ptr, pos.shape[0]),
        ptr=ptr,
        cutoff=cutoff,
    )


def _check_positions(pos: Tensor) -> None:
    good = pos.abs() <= MAX_POSITION  # False for NaN
    if bool(good.all()):
        return
    atom, axis = (~good).nonzero()[0].tolist()
    raise InputError(
        f"position of atom {atom} along {AXES[axis]} is not usable",
        expected=f"a finite number of Å, at most {MAX_POSITION:g}",
        got=repr(float(pos[atom, axis])),
    )
