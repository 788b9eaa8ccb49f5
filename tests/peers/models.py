"""One builder per peer: random weights, published sizes, energy and conservative forces through an ASE calculator.

Where a package has an ASE calculator, that one is measured; PyG, e3nn, TorchMD-NET and FAENet have none, so theirs is
the thin one of `wrapped.py` or `averaged.py`, with vesin or the package's own neighbour list. Packages are imported in
the builders: each environment holds its own alone.
"""

from __future__ import annotations

import importlib
import tempfile
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.data import chemical_symbols

PAIRS_PER_ATOM = 20.0  # constant in place of the data's mean number of neighbours, where a model divides by it


@dataclass(frozen=True)
class Settings:
    """What every model of a comparison has in common, and options of its own."""

    elements: tuple[int, ...]
    cutoff: float  # Å
    dtype: str  # "float32" or "float64"; weights are drawn in float32 for both
    seed: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "float64": torch.float64}[self.dtype]

    @property
    def symbols(self) -> list[str]:
        return [chemical_symbols[z] for z in self.elements]


@dataclass(frozen=True)
class Peer:
    """A calculator ready to use; `pairs` counts the directed pairs as the package's own list finds them.

    `exact` says whether the model claims that its energy does not change under any rotation. Where its forces are the
    gradient with something held that depends on the positions, `held` names it, and `hold` holds it as it is at these
    atoms, or lets it go for None.
    """

    calculator: Any
    parameters: int
    pairs: Callable[[Atoms], int | None]
    settings: str
    exact: bool = True
    held: str = ""
    hold: Callable[[Atoms | None], None] | None = None


Builder = Callable[[Settings], Peer]


def _count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _geomol(backbone: Any, s: Settings, text: str) -> Peer:
    from geomol.graph import build_graph
    from geomol.md import GeomolCalculator
    from geomol.potential import Potential

    potential = Potential(backbone, elements=list(s.elements), e0=[0.0] * len(s.elements)).to(s.torch_dtype).eval()
    # skin 0: the list is searched at every call, as the peers do
    calculator = GeomolCalculator(potential, skin=0.0, compile=bool(s.options.get("compile", False)))
    text += ", compiled" if s.options.get("compile") else ""
    return Peer(
        calculator,
        _count(potential),
        lambda atoms: int(build_graph(atoms, s.cutoff).num_edges),
        text,
        exact=bool(backbone.symmetry.exact),
    )


def geomol_egnn(s: Settings) -> Peer:
    """EGNN with a smooth cutoff; options `channels`, `layers`."""
    from geomol.models import EGNN

    channels, layers = int(s.options["channels"]), int(s.options["layers"])
    model = EGNN(elements=list(s.elements), channels=channels, num_layers=layers, cutoff=s.cutoff)
    return _geomol(model, s, f"C{channels}, {layers} layers")


def geomol_r3s2(s: Settings) -> Peer:
    """PONITA on R³×S² with 12 orientations and the Legendre kernel; options `channels`, `layers`."""
    from geomol.models import Ponita

    channels, layers = int(s.options["channels"]), int(s.options["layers"])
    model = Ponita(elements=list(s.elements), channels=channels, num_layers=layers, cutoff=s.cutoff)
    return _geomol(model, s, f"C{channels}, O12, {layers} layers")


def _mace(s: Settings, irreps: str) -> Peer:
    import numpy as np
    from e3nn import o3
    from mace import modules
    from mace.calculators import MACECalculator
    from mace.data.neighborhood import get_neighborhood

    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
        r_max=s.cutoff,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(s.elements),
        hidden_irreps=o3.Irreps(irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(s.elements)),
        avg_num_neighbors=PAIRS_PER_ATOM,
        atomic_numbers=list(s.elements),
        correlation=3,
        gate=torch.nn.functional.silu,
    ).to(s.torch_dtype)

    def pairs(atoms: Atoms) -> int:
        found = get_neighborhood(atoms.positions, s.cutoff, tuple(bool(p) for p in atoms.pbc), np.array(atoms.cell))
        return int(found[0].shape[1])

    calculator = MACECalculator(models=[model], device="cpu", default_dtype=s.dtype)
    return Peer(calculator, _count(model), pairs, f"{irreps}, l = 3, correlation 3, 2 layers")


def mace(s: Settings) -> Peer:
    """MACE, invariant messages."""
    return _mace(s, "32x0e")


def mace_l1(s: Settings) -> Peer:
    """MACE with vector messages."""
    return _mace(s, "64x0e + 64x1o")


def nequip(s: Settings) -> Peer:
    """NequIP, l = 2, three layers of 32 features with parity."""
    from nequip.data import AtomicDataDict
    from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
    from nequip.integrations.ase import NequIPCalculator
    from nequip.model import NequIPGNNModel
    from nequip.utils.global_state import set_global_state

    set_global_state()  # without it no model can be built
    torch.set_default_dtype(torch.float64)  # NequIP's own setting, in which it reads positions; it sets it only once

    def draw(dtype: str) -> torch.nn.Module:
        made: torch.nn.Module = NequIPGNNModel(
            seed=s.seed,
            model_dtype=dtype,
            r_max=s.cutoff,
            type_names=s.symbols,
            num_layers=3,
            l_max=2,
            parity=True,
            num_features=32,
            avg_num_neighbors=PAIRS_PER_ATOM,
        )
        return made.eval()

    model = draw("float32")
    if s.dtype == "float64":  # its precision is fixed at birth
        weights, model = model.state_dict(), draw("float64")
        model.load_state_dict(weights)
    transforms = [ChemicalSpeciesToAtomTypeMapper(s.symbols), NeighborListTransform(s.cutoff)]
    calculator = NequIPCalculator(model, device="cpu", transforms=transforms)

    def pairs(atoms: Atoms) -> int:
        return int(calculator.atoms_to_data(atoms)[AtomicDataDict.EDGE_INDEX_KEY].shape[1])

    return Peer(calculator, _count(model), pairs, "l = 2, 3 layers × 32, parity")


def schnetpack(s: Settings) -> Peer:
    """PaiNN of SchNetPack, 128 × 3."""
    import torch.utils.data.dataloader as loader

    # SchNetPack 2.0.4 imports this name for an annotation; torch 2.13 has it no more
    loader.T_co = typing.TypeVar("T_co", covariant=True)  # type: ignore[attr-defined]
    import schnetpack as spk
    from schnetpack.interfaces import SpkCalculator

    radial = spk.nn.GaussianRBF(n_rbf=20, cutoff=s.cutoff)
    painn = spk.representation.PaiNN(
        n_atom_basis=128, n_interactions=3, radial_basis=radial, cutoff_fn=spk.nn.CosineCutoff(s.cutoff)
    )
    model = spk.model.NeuralNetworkPotential(
        representation=painn,
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[spk.atomistic.Atomwise(n_in=128, output_key="energy"), spk.atomistic.Forces()],
    )
    listing = spk.transform.MatScipyNeighborList(cutoff=s.cutoff)
    with tempfile.TemporaryDirectory() as folder:  # its calculator reads models from files alone
        path = str(Path(folder) / "model")
        torch.save(model, path)
        calculator = SpkCalculator(path, listing, energy_unit="eV", position_unit="Ang", dtype=s.torch_dtype)
    calculate = calculator.calculate

    def both(atoms: Atoms, properties: Any, changes: Any) -> None:
        """Energy and forces in one call; else it would compute the model once for each that ASE asks for."""
        calculate(atoms, ["energy", "forces"], changes)

    calculator.calculate = both
    return Peer(calculator, _count(model), lambda atoms: None, "PaiNN 128 × 3, matscipy")


def sevennet(s: Settings) -> Peer:
    """SevenNet of its default configuration."""
    from sevenn import _keys as KEY  # noqa: N812
    from sevenn._const import DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG
    from sevenn.calculator import SevenNetCalculator
    from sevenn.model_build import build_E3_equivariant_model
    from sevenn.train.dataload import unlabeled_atoms_to_graph
    from sevenn.util import chemical_species_preprocess

    config = {
        **DEFAULT_E3_EQUIVARIANT_MODEL_CONFIG,
        **chemical_species_preprocess(s.symbols),
        KEY.CUTOFF: s.cutoff,
        KEY.CONV_DENOMINATOR: PAIRS_PER_ATOM,
        KEY.SHIFT: 0.0,
        KEY.SCALE: 1.0,
    }
    if s.dtype == "float64":
        raise NotImplementedError("SevenNet's calculator feeds float32 alone")
    model = build_E3_equivariant_model(config)
    calculator = SevenNetCalculator(model, file_type="model_instance", device="cpu")

    def pairs(atoms: Atoms) -> int:
        return int(unlabeled_atoms_to_graph(atoms, s.cutoff)[KEY.EDGE_IDX].shape[1])

    return Peer(calculator, _count(model), pairs, "32 features, l = 1, 3 layers")


def _of(module: str, name: str) -> Builder:
    """A builder of another file of this folder, which is imported when it is called."""

    def build(s: Settings) -> Peer:
        made: Peer = getattr(importlib.import_module(f".{module}", __package__), name)(s)
        return made

    return build


def lennard_jones(s: Settings) -> Peer:
    """ASE's Lennard-Jones with a smooth cutoff: a peer that is always there, to try the scripts with."""
    from ase.calculators.lj import LennardJones

    calculator = LennardJones(sigma=1.0, epsilon=0.1, rc=s.cutoff, ro=0.7 * s.cutoff, smooth=True)
    return Peer(calculator, 2, lambda atoms: None, "σ 1 Å, ε 0.1 eV")


def emt(s: Settings) -> Peer:
    """ASE's EMT: has metals, C, H, O with a cutoff of its own, so its pairs are not those of the others."""
    from ase.calculators.emt import EMT

    return Peer(EMT(), 7 * len(s.elements), lambda atoms: None, "own cutoff")


BUILDERS: dict[str, Builder] = {
    "geomol-egnn": geomol_egnn,
    "geomol-r3s2": geomol_r3s2,
    "mace": mace,
    "mace-l1": mace_l1,
    "nequip": nequip,
    "schnetpack": schnetpack,
    "sevennet": sevennet,
    "tensornet": _of("wrapped", "tensornet"),
    "et": _of("wrapped", "equivariant_transformer"),
    "schnet-pyg": _of("wrapped", "schnet_pyg"),
    "dimenet": _of("directional", "dimenet"),
    "e3nn": _of("wrapped", "e3nn"),
    "faenet": _of("averaged", "faenet"),
    "faenet-all": _of("averaged", "faenet_all"),
    "lennard-jones": lennard_jones,
    "emt": emt,
}
