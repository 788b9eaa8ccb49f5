"""The layout rule: arrows go down one list, no import hides in a function, importing changes nothing, no pickle."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import geomol

PACKAGE = Path(geomol.__file__).parent

# Who may import whom: a file imports from its own group or an earlier one. Groups on one line are siblings, which do
# not know each other. The empty name is the package itself (`geomol/__init__.py`), which re-exports the public names.
ORDER: list[set[str]] = [
    {"errors"},
    {"native"},
    {"ops"},
    {"graph"},
    {"geometry"},
    {"nn"},
    {"models"},
    {"symmetry"},
    {"potential", "forecast", "diffusion", "properties", "labels"},
    {"checks"},
    {"checkpoint"},
    {"data", "compiled"},
    {"train", "md", "generate"},
    {"report", "bench"},
    {"study"},
    {"cli"},
    {"", "__main__"},
]
LEVEL = {group: level for level, groups in enumerate(ORDER) for group in groups}

# Third-party packages that not everyone has: imported where they are used, and nowhere else.
OPTIONAL = {"rdkit", "tblite", "torch_scatter", "triton", "posebusters"}
# Third-party packages that are slow to import, and may be imported where they are used.
SLOW = {"torch_geometric", "e3nn", "h5py", "matplotlib", "torch.utils.tensorboard"}


class Import(NamedTuple):
    """One import statement of `module` (dotted, without the leading package) for `target`."""

    module: str
    line: int
    target: str
    inside_function: bool
    typing_only: bool


def module_name(path: Path, root: Path) -> str:
    """Dotted name without the leading package: "graph.record", "graph", "" for the package itself."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def targets(node: ast.Import | ast.ImportFrom, package: list[str]) -> list[str]:
    """Absolute names that a statement in a file of `package` imports: `from a import b` gives a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = [node.module] if node.module else []
    if node.level:
        base = [*package[: len(package) - node.level + 1], *base]
    return [".".join([*base, alias.name]) for alias in node.names]


def imports(root: Path) -> Iterator[Import]:
    """Every import statement under `root`, with where it stands."""
    for path in sorted(root.rglob("*.py")):
        module = module_name(path, root)
        package = ["geomol", *path.relative_to(root).parent.parts]
        todo: list[tuple[ast.AST, bool, bool]] = [(ast.parse(path.read_text("utf-8")), False, False)]
        while todo:
            node, in_function, typing_only = todo.pop()
            if isinstance(node, ast.Import | ast.ImportFrom):
                for target in targets(node, package):
                    yield Import(module, node.lineno, target, in_function, typing_only)
            in_function |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing_only |= isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            todo += [(child, in_function, typing_only) for child in ast.iter_child_nodes(node)]


def own_group(target: str) -> str | None:
    """Group of a module of the package, None for a third-party one."""
    top, _, rest = target.partition(".")
    if top != "geomol":
        return None
    group = rest.split(".")[0]
    return group if group in LEVEL else ""


def is_one_of(target: str, names: set[str]) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in names)


def foreign_fault(entry: Import) -> str | None:
    """What is wrong with an import of somebody else's package."""
    optional = is_one_of(entry.target, OPTIONAL)
    if entry.inside_function and not optional and not is_one_of(entry.target, SLOW):
        return f"{entry.target} is imported inside a function"
    if optional and not entry.inside_function and not entry.typing_only:
        return f"{entry.target} is optional, and must be imported where it is used"
    return None


def own_fault(entry: Import, group: str, target: str) -> str | None:
    """What is wrong with an import of a module of the package."""
    if entry.inside_function:
        return f"{entry.target} is hidden inside a function"
    if group not in LEVEL or target == group or LEVEL[target] < LEVEL[group]:
        return None
    if LEVEL[target] == LEVEL[group]:
        return f"{group} and {target} are siblings"
    return f"{group} may not import {entry.target}, which comes later"


def violations(root: Path) -> list[str]:
    """Every broken rule, one line each: the table of groups, upward arrows, siblings, hidden imports, cycles."""
    modules = {module_name(path, root) for path in root.rglob("*.py")}
    found = {
        f"geomol/{group} is not in the table of groups" for group in {m.split(".")[0] for m in modules} - set(LEVEL)
    }
    edges: dict[str, set[str]] = {}
    for entry in imports(root):
        target = own_group(entry.target)
        fault = foreign_fault(entry) if target is None else own_fault(entry, entry.module.split(".")[0], target)
        if fault is not None:
            found.add(f"{entry.module or '__init__'}:{entry.line}: {fault}")
        if target is not None and not entry.typing_only:
            edges.setdefault(entry.module, set()).add(resolve(entry.target, modules))
    return sorted(found) + cycles(edges)


def resolve(target: str, modules: set[str]) -> str:
    """The module that a target names: itself, or the one it is an attribute of."""
    name = target.partition(".")[2]
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def cycles(edges: dict[str, set[str]]) -> list[str]:
    """Import cycles between modules, by depth-first search."""
    found: list[str] = []
    state: dict[str, int] = {}

    def visit(module: str, path: list[str]) -> None:
        state[module] = 1
        for target in sorted(edges.get(module, ())):
            if target == module:
                continue
            if state.get(target) == 1:
                found.append("cycle: " + " > ".join([*path[path.index(target) :], target]))
            elif target not in state:
                visit(target, [*path, target])
        state[module] = 2

    for module in sorted(edges):
        if module not in state:
            visit(module, [module])
    return found


def test_imports_go_down_the_list_of_groups_only():
    assert violations(PACKAGE) == []


def test_the_import_rule_rejects_a_bad_tree(tmp_path):
    """The control: one file per rule, each of which breaks it."""
    bad = {
        "graph/record.py": "from geomol.potential import Potential",
        "md/run.py": "from geomol.train import loop",
        "train/__init__.py": "",
        "ops/rows.py": "from geomol.ops.edges import conv",
        "ops/edges.py": "from .rows import row_sum",
        "data/read.py": "def read():\n    from geomol.graph import Graph\n    import json",
        "nn/mlp.py": "from geomol import Graph",
        "utils.py": "",
        "errors.py": "",
        "report/page.py": "import rdkit.Chem\nimport matplotlib",
        "potential.py": "from geomol.errors import InputError",
    }
    for name, text in bad.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = "\n".join(violations(tmp_path))
    assert "record:1: graph may not import geomol.potential.Potential, which comes later" in found
    assert "md and train are siblings" in found
    assert "cycle: ops.edges > ops.rows > ops.edges" in found
    assert "geomol.graph.Graph is hidden inside a function" in found
    assert "json is imported inside a function" in found
    assert "nn may not import geomol.Graph, which comes later" in found
    assert "geomol/utils is not in the table of groups" in found
    assert "rdkit.Chem is optional" in found
    assert "potential:1" not in found, "an arrow that goes down is fine"
    assert len(found.splitlines()) == 8


PICKLES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve"}


def pickle_uses(source: str) -> list[str]:
    """Ways of reading a pickle that a piece of code contains."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted = f"{node.value.id}.{node.attr}"
            found += [dotted] if dotted in {"torch.load", "torch.save", "np.save", "pd.read_pickle"} else []
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            allowed = not (isinstance(node.value, ast.Constant) and node.value.value is False)
            found += ["allow_pickle"] if allowed else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [node.func.id] if node.func.id in {"eval", "exec"} else []
    return found


def test_the_package_never_reads_a_pickle_or_runs_text():
    uses = {str(path.relative_to(PACKAGE)): pickle_uses(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
    assert {path: names for path, names in uses.items() if names} == {}


def test_the_pickle_scan_finds_each_way_of_reading_one():
    bad = "import pickle\nfrom dill import load\ntorch.load(f)\nnp.load(f, allow_pickle=True)\neval(text)"
    assert sorted(pickle_uses(bad)) == ["allow_pickle", "dill", "eval", "pickle", "torch.load"]
    assert pickle_uses("np.load(f, allow_pickle=False)\nmodel.eval()") == []


SIDE_EFFECTS = """
import json, os, random, sys, warnings
import numpy, torch
# what others do when they are imported (scipy adds filters, rich draws a random number) is not the question here
import ase.io, ase.md, e3nn.o3, h5py, matplotlib.backends.backend_agg, matplotlib.axes, pydantic, safetensors.torch
import rich.progress, rich.table, scipy.integrate, scipy.special, torch.utils.tensorboard, torch_geometric.data, typer
import vesin

def look():
    return {
        "dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "interop threads": torch.get_num_interop_threads(),
        "torch generator": torch.random.get_rng_state().tolist(),
        "numpy generator": [str(x) for x in numpy.random.get_state()],
        "python generator": str(random.getstate()),
        "filters": [str(f) for f in warnings.filters],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "printing": str(numpy.get_printoptions()),
        "backend": matplotlib.rcParams._get("backend") is None,
        "environment": dict(os.environ),
        "hooks": [sys.excepthook is sys.__excepthook__, str(sys.path)],
    }

before = look()
import geomol, geomol.cli.app
after = look()
print(json.dumps([k for k in before if before[k] != after[k]]))
"""


def test_importing_the_package_changes_nothing_in_the_process(tmp_path):
    command = [sys.executable, "-c", SIDE_EFFECTS]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert list(tmp_path.iterdir()) == []
    assert done.stderr == ""
