"""Banks of anomaly prompts, with which the LAP detector compares captions.

The phrases are in bank_phrases.py, in two vocabularies. A bank is embedded by the text encoder of
the captions and written beside a store's manifest as bank.json and bank.npy.
"""

import dataclasses
import io
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from generation.encoders.bank_phrases import PHRASES
from gvvad_jax.store.files import write_atomically, write_json


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
    """Writes the phrases to bank.json and their vectors to bank.npy in a store's folder."""
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
