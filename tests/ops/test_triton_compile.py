"""The fused kernels compile for a GPU that is not there: types, shapes and masks pass Triton's compiler and the driver
assembler, and no value is spilled to slow memory.

They do so under the checker of shapes that tests put around every function, as tests on a device will meet them.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

SCRIPT = """
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jaxtyping

jaxtyping.install_import_hook("geomol", "shape_checker.check_shapes")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from triton.runtime import driver

from geomol.graph import cells
from geomol.ops import triton_cells, triton_messages, triton_pair, triton_separable
from geomol.ops.fused_messages import SHARED_BYTES
from geomol.ops.fused_messages_cpu import Inputs
from geomol.ops.triton_jit import warps_of

ATOMICS = re.compile(r"(?<![a-z])(atom|red)[.]")
DISASSEMBLER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def spilled(cubin):
    # bytes per thread; the assembler spills, so that nothing of it stands in the PTX
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        command = [DISASSEMBLER, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search("STACK:([0-9]+)", text)[1])


TILE = {"BLOCK_O": 16, "BLOCK_C": 64}
CONV = {"DEGREES": 4, "HAS_PERM": True, **TILE}
DOTS, BOTH = {"DEGREES": 4, "BLOCK_L": 4, **TILE}, {"BY_ANGULAR": True, "BY_MIXED": True}
KERNELS = (
    (triton_pair.row_kernel, "index ptr perm", {"HAS_X": True, "HAS_PERM": True, "BLOCK_E": 4, "BLOCK_F": 256}, 4),
    (triton_pair.row_kernel, "index ptr perm", {"HAS_X": False, "HAS_PERM": False, "BLOCK_E": 16, "BLOCK_F": 64}, 4),
    (triton_pair.row_kernel, "index ptr perm", {"HAS_X": False, "HAS_PERM": False, "BLOCK_E": 4096, "BLOCK_F": 1}, 8),
    (triton_pair.edge_dot_kernel, "a b", {"BLOCK_E": 4, "BLOCK_F": 256}, 4),
    *((triton_separable.conv_kernel, "index ptr perm", {**CONV, "ADD": add}, warps_of(1024)) for add in (False, True)),
    (triton_separable.dots_kernel, "a b", {**DOTS, **BOTH, "ADD_ANGULAR": False, "ADD_MIXED": False}, warps_of(1024)),
    (triton_separable.dots_kernel, "a b", {**DOTS, **BOTH, "ADD_ANGULAR": True, "ADD_MIXED": True}, warps_of(1024)),
)
NUMBERS = "num_values width stride_edge stride_outer stride_inner num_edges first num_ori channels".split()

for dtype in ("fp32", "fp64", "bf16"):
    for kernel, indices, constants, warps in KERNELS:
        constants = {**constants, "IN_DOUBLE": dtype == "fp64"}
        kinds = {name: "constexpr" for name in constants} | {name: "i32" for name in NUMBERS}
        kinds |= {name: "*i64" for name in indices.split()}
        source = ASTSource(kernel, {n: kinds.get(n, "*" + dtype) for n in kernel.arg_names}, constants)
        options = {"num_warps": warps, "enable_fp_fusion": True}
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert made.asm["cubin"]
        assert spilled(made.asm["cubin"]) <= 16, (kernel, dtype)
        assert not ATOMICS.search(made.asm["ptx"])


class Absent:
    # a device of which only the kind is known: kernels are compiled for it as they are launched, and do not run

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


names = []


def compiled(kernel, grid, *args, warps, fuse=True, **constants):
    made = kernel.warmup(*args, grid=grid, num_warps=warps, enable_fp_fusion=fuse, **constants)
    assert made.metadata.shared <= (SHARED_BYTES if "BLOCK_K" in constants else 48 << 10), kernel
    # the derivative of a derivative puts away some dozen numbers, once for a tile
    assert spilled(made.asm["cubin"]) <= (160 if "twice" in kernel.__name__ else 16), (kernel, constants)
    assert not ATOMICS.search(made.asm["ptx"])
    names.append(kernel.__name__)


driver.set_active(Absent())
triton_cells.launch = triton_messages.launch = triton_pair.launch = compiled

# neighbours: counted first, and written by the counts, which nobody has made here
box = 6.0 * torch.eye(3, dtype=torch.float64)[None]
pos, ptr = 6.0 * torch.rand(40, 3, dtype=torch.float64), torch.tensor([0, 40])
cells.use_triton, torch.empty = lambda values: True, torch.zeros
for is_periodic in (True, False):
    cells.search_cells(pos, ptr, is_periodic * box, torch.full((1, 3), is_periodic), 2.5)

# edge blocks of EGNN as narrow and as wide as they come
N, E = 50, 1000
src, ptr = torch.arange(E) % N, torch.arange(N + 1) * (E // N)
rows = src, ptr, ptr, torch.argsort(src)
for channels, num_feats in ((16, 4), (32, 16), (64, 16), (64, 64)):
    c, k = channels, num_feats
    t = Inputs(*(torch.zeros(s) for s in ((N, c), (N, c), (E, k), (E, 1), (c, k), (c,), (c, c), (c,), (1, c), (1,))))
    triton_messages.messages(t, rows)
    for weights in (False, True):
        triton_messages.grads(t.receiver, t, rows, weights)
    triton_messages.grads_twice(t, t.receiver, t, rows)
print("compiled", sorted(set(names)))
"""


def test_kernels_compile_for_a_device_and_use_no_atomics(tmp_path):
    root = Path(__file__).parents[2]
    extra = {
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]),
        "TRITON_CACHE_DIR": str(tmp_path),
        "TRITON_INTERPRET": "0",
        "GEOMOL_NATIVE": "0",  # or the search in C would be taken
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **extra},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = "grads_kernel", "grads_twice_kernel", "messages_kernel", "order_kernel", "row_kernel", "search_kernel"
    assert done.stdout == f"compiled {list(names)}\n"
