"""A process of its own that finds the bonds of one molecule after the other: JSON lines in, JSON lines out.

Run as a program, not imported: RDKit's bond perception can hang for minutes or take all memory, in C++ code that
nothing but the end of the process stops. It knows nothing of geomol, so that it starts in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MAX_BYTES = 4 << 30  # memory of the process; perception of a few hundred atoms takes far less
GRACE_S = 5.0  # how much later than its owner the process ends itself, if the owner is gone


def limit_memory() -> None:
    """Let the process run out of memory alone, where the system has such limits."""
    if resource is None:
        return
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = MAX_BYTES if hard == resource.RLIM_INFINITY else min(MAX_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def bonds_of(job: dict[str, Any]) -> dict[str, Any]:
    """Bonds (atom, atom, order) and formal charges of a job's molecule."""
    from rdkit import Chem
    from rdkit.Chem.rdDetermineBonds import DetermineBonds

    mol = Chem.RWMol()
    for number in job["numbers"]:
        mol.AddAtom(Chem.Atom(number))
    conformer = Chem.Conformer(len(job["numbers"]))
    for i, (x, y, z) in enumerate(job["pos"]):
        conformer.SetAtomPosition(i, (x, y, z))
    mol.AddConformer(conformer, assignId=True)
    DetermineBonds(mol, charge=job["charge"])
    Chem.Kekulize(mol, clearAromaticFlags=True)
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in mol.GetBonds()]
    return {"bonds": bonds, "charges": [atom.GetFormalCharge() for atom in mol.GetAtoms()]}


def main() -> None:
    """Answer every line of standard input."""
    limit_memory()
    from rdkit import Chem, rdBase  # the slow part; done before the first molecule is timed

    rdBase.DisableLog("rdApp.*")
    assert Chem is not None
    print(json.dumps({"ready": rdBase.rdkitVersion}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if hasattr(signal, "setitimer"):  # the default action ends the process even inside C++
            signal.setitimer(signal.ITIMER_REAL, job["limit_s"] + GRACE_S)
        try:
            answer = bonds_of(job)
        except Exception as error:
            answer = {"fault": " ".join(str(error).split()) or type(error).__name__}
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
