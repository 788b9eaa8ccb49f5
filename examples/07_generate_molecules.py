"""Molecules out of noise: ask, sample, judge, relax, write. `geomol sample` does the same from the command line."""

import tempfile
from pathlib import Path

import geomol
from geomol.generate import (
    PROTOCOLS,
    SampleSettings,
    make_requests,
    parse_formula,
    relax_molecules,
    sample,
    score,
    to_molecules,
    without_hydrogens,
    write_molecules,
)

generator = geomol.load("qm9-generator")
requests = make_requests(12, seed=1, sizes=generator.sizes)  # as many atoms as molecules of QM9 have
samples = sample(generator, requests, SampleSettings(sampler="heun", steps=15))

molecules = to_molecules(samples)  # with the bonds that the model names
result = score(molecules, PROTOCOLS["edm"])  # with the bonds that the distances imply
for made, smiles, reason in zip(samples, result.verdicts.smiles, result.verdicts.reasons, strict=True):
    shown = without_hydrogens(smiles) or "-"
    print(f"seed {made.request.seed:20d}  {len(made.numbers):2d} atoms  {shown:28s} {reason}")
for name in ("atom_stability", "molecule_stability", "valid", "connected"):
    print(f"{name.replace('_', ' '):20s} {100 * result.shares[name].value:5.1f} %")

stable = [i for i, good in enumerate(result.verdicts.stable & result.verdicts.valid) if good]
if stable:
    kept = molecules.subset(stable)
    relaxed = relax_molecules(kept.structures, "mmff", orders=[result.verdicts.orders[i] for i in stable])
    for i, outcome in zip(stable, relaxed, strict=True):
        print(f"molecule {i:2d} strain {outcome.strain_kcal_per_mol:6.1f} kcal/mol, moved {outcome.rmsd:.2f} Å")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "molecules.sdf"
    tags = [{"seed": str(s.request.seed)} for s in samples]
    write_molecules(path, molecules.structures, molecules.orders, tags)
    print(f"{path.name}: {path.stat().st_size} bytes")

# the same seeds give the same molecules, whatever they are batched with
again = sample(generator, requests[:1], SampleSettings(sampler="heun", steps=15))[0]
assert (again.numbers == samples[0].numbers).all()

# isomers of a formula
asked = make_requests(4, seed=2, sizes={}, numbers=parse_formula("C2H6O"))
isomers = to_molecules(sample(generator, asked, SampleSettings(steps=15)))
print([without_hydrogens(smiles) or "-" for smiles in score(isomers, PROTOCOLS["edm"]).verdicts.smiles])
