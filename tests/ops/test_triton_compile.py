"""The fused kernels compile for a GPU that is not there: types, shapes and masks pass Triton's compiler and the driver
assembler, and no value is spilled to slow memory."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

SCRIPT = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from geomol.ops import triton_pair, triton_separable

TILE = {"BLOCK_O": 16, "BLOCK_C": 64}
KERNELS = (
    (triton_pair.row_kernel, "index ptr perm", {"HAS_X": True, "HAS_PERM": True, "BLOCK_E": 4, "BLOCK_F": 256}, 4),
    (triton_pair.row_kernel, "index ptr perm", {"HAS_X": False, "HAS_PERM": False, "BLOCK_E": 16, "BLOCK_F": 64}, 4),
    (triton_pair.edge_dot_kernel, "a b", {"BLOCK_E": 4, "BLOCK_F": 256}, 4),
    (triton_separable.conv_kernel, "index ptr perm", {"DEGREES": 4, "HAS_PERM": True, **TILE}, 1),
    (triton_separable.dots_kernel, "a b", {"DEGREES": 4, "BLOCK_L": 4, **TILE}, 1),
)
NUMBERS = "num_values width stride_edge stride_outer stride_inner num_edges num_ori channels".split()

for dtype in ("fp32", "fp64", "bf16"):
    for kernel, indices, constants, warps in KERNELS:
        constants = {**constants, "IN_DOUBLE": dtype == "fp64"}
        kinds = {name: "constexpr" for name in constants} | {name: "i32" for name in NUMBERS}
        kinds |= {name: "*i64" for name in indices.split()}
        source = ASTSource(kernel, {n: kinds.get(n, "*" + dtype) for n in kernel.arg_names}, constants)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
        assert made.asm["cubin"]
        assert "ld.local" not in made.asm["ptx"]
        assert ".atom" not in made.asm["ptx"] and "red.global" not in made.asm["ptx"]
print("compiled")
"""


def test_kernels_compile_for_a_device_and_use_no_atomics(tmp_path):
    root = Path(__file__).parents[2]
    extra = {"PYTHONPATH": str(root), "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
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
