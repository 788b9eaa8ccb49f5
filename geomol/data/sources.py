"""Named public datasets: where they are, how large, with which hash, and in which units.

Hashes: the SHA-256, MD5 and size of the rMD17 archive and the MD5 and size of QM9 are those of the figshare records
12672038 (version 3) and 978904. quantum-machine.org publishes no hashes for MD17, Princeton none for ModelNet, nor
Stanford for ShapeNet-Part; the first download records the one it finds beside the file and says so. The size of
ModelNet10.zip is the one that the server states (as printed in the PointNet example of Keras).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from geomol.data.archive import extract_members
from geomol.data.download import Pin, Progress, fetch, file_hash, record_hash
from geomol.data.folders import cache_folder
from geomol.errors import DataError, nearest

_FIGSHARE = "https://ndownloader.figshare.com/files/"
_GDML = "http://www.quantum-machine.org/gdml/data/npz/"
RMD17_ARCHIVE = (_FIGSHARE + "23950376", "https://archive.materialscloud.org/records/pfffs-fff86/files/rmd17.tar.bz2")
RMD17_PIN = Pin(
    size=1_066_301_513,
    sha256="cddeea2ec2c4b22a9de16a9a65a3eeedac5b29da9c99c20bbff0153912bf922b",
    md5="cb1a927628d96f2e966025da4fb63d18",
)
RMD17_MOLECULES = (
    *("aspirin", "azobenzene", "benzene", "ethanol", "malonaldehyde"),
    *("naphthalene", "paracetamol", "salicylic", "toluene", "uracil"),
)
MD17_MOLECULES = {
    "aspirin": "aspirin",
    "benzene": "benzene2017",
    "ethanol": "ethanol",
    "malonaldehyde": "malonaldehyde",
    "naphthalene": "naphthalene",
    "salicylic": "salicylic",
    "toluene": "toluene",
    "uracil": "uracil",
}
RMD17_SPLITS = tuple(f"index_{part}_{k:02d}.csv" for k in range(1, 6) for part in ("train", "test"))


@dataclass(frozen=True)
class Source:
    """One file to download, and what to take out of it.

    Attributes:
        name: as given to `get`, e.g. "rmd17/ethanol".
        urls: the file and its mirrors.
        file: its path under the data folder.
        members: archive member -> path under the data folder; empty if the file itself is the data.
        result: path under the data folder of the file that holds the structures.
        units: of that file, as for `parse_units`.
    """

    name: str
    urls: tuple[str, ...]
    file: str
    pin: Pin
    result: str
    units: str
    licence: str
    cite: str
    members: Mapping[str, str] = field(default_factory=dict)


def _rmd17(molecule: str) -> Source:
    result = f"rmd17/rmd17_{molecule}.npz"
    members = {f"rmd17/npz_data/rmd17_{molecule}.npz": result}
    members |= {f"rmd17/splits/{name}": f"rmd17/splits/{name}" for name in RMD17_SPLITS}
    return Source(
        name=f"rmd17/{molecule}",
        urls=RMD17_ARCHIVE,
        file="rmd17/rmd17.tar.bz2",
        pin=RMD17_PIN,
        members=members,
        result=result,
        units="kcal/mol,Angstrom",
        licence="CC0",
        cite="Christensen, von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020)",
    )


def _md17(molecule: str, stem: str) -> Source:
    file = f"md17/md17_{stem}.npz"
    return Source(
        name=f"md17/{molecule}",
        urls=(f"{_GDML}md17_{stem}.npz",),
        file=file,
        pin=Pin(),
        result=file,
        units="kcal/mol,Angstrom",
        licence="not stated at the source",
        cite="Chmiela et al., Sci. Adv. 3, e1603015 (2017)",
    )


_QM9 = Source(
    name="qm9",
    urls=(_FIGSHARE + "3195389",),
    file="qm9/dsgdb9nsd.xyz.tar.bz2",
    pin=Pin(size=86_144_227, md5="ad1ebd51ee7f5b3a6e32e974e5d54012"),
    result="qm9/dsgdb9nsd.xyz.tar.bz2",
    units="Hartree,Angstrom",
    licence="CC0",
    cite="Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014)",
)
_QM9_UNCHARACTERIZED = Source(
    name="qm9/uncharacterized",
    urls=(_FIGSHARE + "3195404",),
    file="qm9/uncharacterized.txt",
    pin=Pin(size=486_752, md5="a361887bacb427b8a0ce7903d92a53b4"),
    result="qm9/uncharacterized.txt",
    units="",
    licence="CC0",
    cite=_QM9.cite,
)

_PRINCETON = "http://modelnet.cs.princeton.edu/"
_MODELNET_LICENCE = "academic use only; copyright of the authors of the CAD models"
_MODELNET_CITE = "Wu et al., 3D ShapeNets, CVPR 2015"
_MODELNET10 = Source(
    name="modelnet10-meshes",
    urls=("http://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip", _PRINCETON + "ModelNet10.zip"),
    file="modelnet/ModelNet10.zip",
    pin=Pin(size=473_402_300),
    result="modelnet/ModelNet10.zip",
    units="",
    licence=_MODELNET_LICENCE,
    cite=_MODELNET_CITE,
)
_MODELNET40 = Source(
    name="modelnet40-meshes",
    urls=(_PRINCETON + "ModelNet40.zip",),
    file="modelnet/ModelNet40.zip",
    pin=Pin(),
    result="modelnet/ModelNet40.zip",
    units="",
    licence=_MODELNET_LICENCE,
    cite=_MODELNET_CITE,
)
_SHAPENET_FILE = "shapenetcore_partanno_segmentation_benchmark_v0_normal.zip"
_SHAPENET_PART = Source(
    name="shapenet-part",
    urls=(
        f"https://shapenet.cs.stanford.edu/media/{_SHAPENET_FILE}",
        "https://huggingface.co/datasets/wangps/shapenet_segmentation/resolve/"
        f"dbde146b974e1fc8628b47b1b1c4e50d8bc1a2ef/{_SHAPENET_FILE}",
    ),
    file=f"shapenet/{_SHAPENET_FILE}",
    pin=Pin(),
    result=f"shapenet/{_SHAPENET_FILE}",
    units="",
    licence="terms of ShapeNet: non-commercial research and education",
    cite="Yi et al., ACM Trans. Graph. 35, 210 (2016)",
)

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        *(_rmd17(molecule) for molecule in RMD17_MOLECULES),
        *(_md17(molecule, stem) for molecule, stem in MD17_MOLECULES.items()),
        _QM9,
        _QM9_UNCHARACTERIZED,
        _MODELNET10,
        _MODELNET40,
        _SHAPENET_PART,
    )
}


def get(
    name: str,
    *,
    root: str | Path | None = None,
    progress: Progress | None = None,
    sources: Mapping[str, Source] = SOURCES,
) -> Path:
    """Download, verify and unpack a named dataset; returns the file that holds it. Nothing is fetched twice.

    Args:
        root: data folder; the user's cache unless given.
        progress: called with (bytes so far, bytes in all or None).

    Raises:
        DataError: unknown name, failed download, or wrong checksum.
        SecurityError: an archive with unsafe members; nothing of it is extracted.
    """
    if name not in sources:
        raise DataError(f'no source named "{name}"', remedy=nearest(name, sources))
    source = sources[name]
    folder = cache_folder() if root is None else Path(root)
    targets = {member: folder / path for member, path in source.members.items()}
    if targets and all(path.exists() for path in targets.values()):
        return folder / source.result
    file = fetch(source.urls, folder / source.file, source.pin, progress=progress)
    if targets:
        extract_members(file, targets)
        record_hash(folder / source.result, file_hash(folder / source.result))
    return folder / source.result
