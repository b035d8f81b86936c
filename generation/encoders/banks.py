"""Banks of anomaly prompts, which LAP compares captions with.

The phrases are in bank_phrases.py, in two vocabularies; a bank is embedded by the encoder of the
captions and lies beside a store's manifest as bank.json and bank.npy.
"""

import dataclasses
import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from generation.encoders.bank_phrases import PHRASES
from gvvad_jax.command import UserError
from gvvad_jax.store.files import read_json, write_atomically, write_json
from gvvad_jax.store.reader import read_manifest


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One phrase of a prompt bank and the class that it is of."""

    cls: str
    phrase: str


BANK_VERSION = 1
BANKS = tuple(PHRASES)
VOCABULARIES = ("motion", "plain")


def prompt_bank(name: str, vocabulary: str) -> list[Prompt]:
    """The anomaly prompts of this name, two a class.

    Args:
      name: one of BANKS.
      vocabulary: one of VOCABULARIES; a captioner's attribute of that name says which is its.

    Raises:
      UserError: an unknown name.
    """
    if name not in PHRASES:
        raise UserError(f"--bank: expected a prompt bank of {', '.join(BANKS)}, found {name!r}")
    classes = PHRASES[name][vocabulary]
    return [Prompt(cls, phrase) for cls, phrases in classes.items() for phrase in phrases]


def save_bank(
    folder: str | os.PathLike,
    name: str,
    prompts: Sequence[Prompt],
    encoder_id: str,
    bank_KxE: np.ndarray,
    *,
    vocabulary: str,
) -> None:
    """Writes bank.json (what the rows are) and bank.npy (the rows) into a store's folder."""
    content = {
        "bank": name,
        "vocabulary": vocabulary,
        "version": BANK_VERSION,
        "encoder": encoder_id,
        "prompts": [{"class": prompt.cls, "phrase": prompt.phrase} for prompt in prompts],
    }
    folder = pathlib.Path(folder)
    write_json(folder / "bank.json", content)
    buffer = io.BytesIO()
    np.save(buffer, bank_KxE.astype(np.float32), allow_pickle=False)
    write_atomically(folder / "bank.npy", buffer.getvalue())


def require_same_encoder(folder: str | os.PathLike) -> None:
    """Refuses a store whose prompt bank and text rows are of different text encoders.

    Cosines between vectors of different encoders mean nothing, and nothing else would tell.

    Raises:
      UserError: the two ids differ, or one is missing.
    """
    folder = pathlib.Path(folder)
    content = read_json(folder / "bank.json")
    bank = content.get("encoder") if isinstance(content, dict) else None
    rows = (read_manifest(folder).text or {}).get("encoder")
    if bank is None or bank != rows:
        raise UserError(
            f"{folder / 'bank.json'}: expected the store's text encoder {rows!r}, found {bank!r}; "
            "embed the bank with it: encode again"
        )
