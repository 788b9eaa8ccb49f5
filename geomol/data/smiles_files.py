"""Files of SMILES: one molecule a line, with a name after it where it has one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geomol.errors import DataError, InputError

SMILES_FILES = (".smi", ".smiles")


@dataclass(frozen=True)
class SmilesLine:
    """A molecule that was asked for.

    Attributes:
        text: its SMILES.
        name: what stands after it on the line; the SMILES itself without.
        where: where it stands, for messages.
    """

    text: str
    name: str
    where: str


def read_smiles_file(path: str | Path) -> list[SmilesLine]:
    """The molecules of a file; empty lines and those that begin with # are none.

    Raises:
        DataError: no such file.
        InputError: it is not text, or holds no molecule.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError("cannot read the file", where=str(path), got=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise InputError("not a text file", where=str(path), expected="UTF-8", got=str(error)) from error
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        smiles, _, name = line.strip().partition(" " if "\t" not in line else "\t")
        if smiles and not smiles.startswith("#"):
            found.append(SmilesLine(smiles, name.strip() or smiles, f"{path}, line {number}"))
    if not found:
        raise InputError("the file holds no molecule", where=str(path), expected="one SMILES a line")
    return found


def smiles_of_words(text: str) -> list[SmilesLine]:
    """SMILES with commas between them."""
    return [SmilesLine(word, word, f"SMILES {number}") for number, word in enumerate(text.split(","), start=1)]
