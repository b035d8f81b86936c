"""Banks of anomaly prompts, with which the LAP detector compares captions.

The phrases are in bank_phrases.py, in two vocabularies. A bank is embedded by the text encoder of
the captions and written beside a store's manifest as bank.json and bank.npy.
"""

import dataclasses
import io
import os
import pathlib
from collections.abc import Sequence

import msgspec
import numpy as np

from generation.encoders.bank_phrases import PHRASES
from gvvad_jax.command import UserError
from gvvad_jax.store import digests
from gvvad_jax.store.files import read_json_as, write_atomically, write_json


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A phrase of a prompt bank and the anomaly class that it describes."""

    cls: str
    phrase: str


BANK_VERSION = 1
BANKS = tuple(PHRASES)
VOCABULARIES = ("motion", "plain")


def prompt_bank(name: str, vocabulary: str) -> list[Prompt]:
    """Returns the anomaly prompts of a bank, two per class.

    Args:
      name: one of BANKS.
      vocabulary: one of VOCABULARIES, see Captioner.vocabulary.
    """
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
    """Writes the phrases to bank.json and their vectors to bank.npy in a store's folder.

    bank.json holds the digest of bank.npy, which is written first, so that a change of either of
    them is noticed.
    """
    buffer = io.BytesIO()
    np.save(buffer, bank_KxE.astype(np.float32), allow_pickle=False)
    content = {
        "bank": name,
        "vocabulary": vocabulary,
        "version": BANK_VERSION,
        "encoder": encoder_id,
        "sha256": digests.of_bytes(buffer.getvalue()),
        "prompts": [{"class": prompt.cls, "phrase": prompt.phrase} for prompt in prompts],
    }
    folder = pathlib.Path(folder)
    write_atomically(folder / "bank.npy", buffer.getvalue())
    write_json(folder / "bank.json", content)


class _Phrase(msgspec.Struct, forbid_unknown_fields=True, rename={"cls": "class"}):
    """A prompt of bank.json."""

    cls: str
    phrase: str


class _Bank(msgspec.Struct, forbid_unknown_fields=True):
    """The content of bank.json."""

    bank: str
    vocabulary: str
    version: int
    encoder: str
    prompts: list[_Phrase]
    sha256: str = ""


def is_whole(folder: str | os.PathLike) -> bool:
    """Returns whether a store's bank is the one that `save_bank` wrote: both files, unchanged."""
    folder = pathlib.Path(folder)
    try:
        bank = read_json_as(folder / "bank.json", _Bank, "a bank of prompts", "encode again")
        phrases = [phrase.phrase for phrase in bank.prompts]
        current = [prompt.phrase for prompt in prompt_bank(bank.bank, bank.vocabulary)]
        return digests.of_file(folder / "bank.npy") == bank.sha256 and phrases == current
    except (UserError, OSError, KeyError):
        return False
