"""PoseBusters: what it says is passed on for every molecule, and what it does not say has not passed."""

from __future__ import annotations

import importlib.util
import logging
import sys
import types
from typing import Any, ClassVar

import numpy as np
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem

from geomol.data import Structures
from geomol.errors import ConfigError, InputError
from geomol.generate.posebusters import molecules_of, posebusters_checks
from geomol.generate.smiles import orders_of


def embedded(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


class Table:
    """What is read of a pandas table of one row."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.columns, self.iloc = list(row), [row]

    def __len__(self) -> int:
        return 1


class Stub:
    """Answers by the number of atoms: the interface of the release 0.6.5, and none of its chemistry."""

    configs: ClassVar[list[str]] = []

    def __init__(self, config: str) -> None:
        self.configs.append(config)
        self.config = {"modules": [{"name": "idle"}, {"name": "lengths", "chosen_binary_test_output": ["a"]}]}

    def bust(self, mol_pred: Any, mol_true: Any, mol_cond: Any, full_report: bool) -> Table:
        assert [module["name"] for module in self.config["modules"]] == ["lengths"]
        (mol,) = mol_pred
        logging.getLogger("posebusters.modules").warning("no conformations")
        if mol.GetNumAtoms() == 3:
            raise RuntimeError("water is\nnot checked")
        energy = np.nan if mol.GetNumAtoms() == 6 else np.bool_(True)
        return Table({"bond_lengths": mol.GetNumAtoms() < 9, "internal_energy": energy})


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    module = types.ModuleType("posebusters")
    module.PoseBusters = Stub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "posebusters", module)
    Stub.configs.clear()
    return Stub


def test_shares_are_of_all_molecules_and_no_answer_is_no_pass(stub, capsys):
    mols = [embedded("C"), embedded("CO"), embedded("CCO"), embedded("O"), None]
    seen: list[int] = []
    found = posebusters_checks(mols, on_result=seen.append)
    assert found.molecules == 5
    assert found.passed == (True, False, False, False, False)
    assert dict(found.checks) == {"bond_lengths": pytest.approx(2 / 5), "internal_energy": pytest.approx(2 / 5)}
    assert dict(found.unanswered) == {"internal_energy": pytest.approx(1 / 5)}
    assert found.failures == ((3, "RuntimeError: water is not checked"), (4, "the molecule could not be built"))
    assert found.rdkit == rdBase.rdkitVersion
    assert found.figures() == {
        "posebusters_pass_share": pytest.approx(1 / 5),
        "posebusters_bond_lengths_share": pytest.approx(2 / 5),
        "posebusters_internal_energy_share": pytest.approx(2 / 5),
        "posebusters_internal_energy_unanswered_share": pytest.approx(1 / 5),
    }
    assert seen == [1, 2, 3, 4, 5]
    assert stub.configs == ["mol"]
    assert capsys.readouterr().err == ""
    assert logging.getLogger("posebusters").level == logging.NOTSET


def test_nothing_to_check_gives_no_number_rather_than_zero(stub):
    assert np.isnan(posebusters_checks([]).figures()["posebusters_pass_share"])
    assert posebusters_checks([None]).figures() == {"posebusters_pass_share": 0.0}


def test_without_the_package_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "posebusters", None)
    with pytest.raises(ConfigError, match=r'need the package posebusters; pip install "geomol\[physics\]"'):
        posebusters_checks([])
    with pytest.raises(ConfigError, match='unknown set of checks, expected "mol" or "mol_fast", got \'dock\''):
        posebusters_checks([], config="dock")


def test_molecules_that_rdkit_rejects_are_none():
    mol = embedded("CO")
    numbers = np.array([a.GetAtomicNum() for a in mol.GetAtoms()] * 2)
    structures = Structures(
        name="methanol, twice",
        numbers=numbers,
        pos=np.concatenate([mol.GetConformer().GetPositions()] * 2),
        ptr=np.array([0, 6, 12]),
        cell=np.zeros((2, 3, 3)),
        pbc=np.zeros((2, 3), bool),
    )
    wrong = orders_of(mol)
    wrong[wrong > 0] = 3
    good, bad = molecules_of(structures, [orders_of(mol), wrong])
    assert bad is None
    assert good is not None
    assert Chem.MolToSmiles(Chem.RemoveHs(good)) == "CO"
    assert np.array_equal(good.GetConformer().GetPositions(), structures.pos[:6])
    with pytest.raises(InputError, match="one matrix of orders per molecule"):
        molecules_of(structures, [wrong])


@pytest.mark.skipif(importlib.util.find_spec("posebusters") is None, reason="posebusters is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_posebusters_itself_passes_a_good_molecule_and_not_a_stretched_one():
    good, stretched = embedded("CC(=O)NC"), embedded("CC(=O)NC")
    pos = np.array(stretched.GetConformer().GetPositions())
    pos[0] += 1.5 * (pos[0] - pos[1])
    stretched.GetConformer().SetPositions(pos)
    found = posebusters_checks([good, stretched], config="mol_fast")
    assert found.passed == (True, False)
    assert dict(found.checks)["bond_lengths"] == pytest.approx(0.5)
    assert dict(found.checks)["sanitization"] == pytest.approx(1.0)
    assert not found.failures
