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

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from geomol.ops import triton_pair, triton_separable
from geomol.ops.triton_jit import warps_of

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
        assert ".atom" not in made.asm["ptx"] and "red.global" not in made.asm["ptx"]
print("compiled")
"""


def test_kernels_compile_for_a_device_and_use_no_atomics(tmp_path):
    root = Path(__file__).parents[2]
    extra = {
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]),
        "TRITON_CACHE_DIR": str(tmp_path),
        "TRITON_INTERPRET": "0",
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
    assert done.stdout == "compiled\n"
