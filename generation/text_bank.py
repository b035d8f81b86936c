"""Text embeddings without weights, and the bank of anomaly prompts that LAP compares with.

`HashedTextEmbedder` turns sentences into vectors by hashed n-grams, so a caption lies close to the
prompts whose words it shares. The bank's phrases say what a class looks like in the words that the
captioner (captions.py) uses for the same sights.
"""

import dataclasses
import io
import itertools
import json
import os
import pathlib
import re
import zlib
from collections.abc import Sequence

import numpy as np

from gvvad_jax.store import UserError, write_atomically


class HashedTextEmbedder:
    """Sentences to vectors by hashed word and character n-grams; no weights, no vocabulary.

    Cosines are high where sentences share words, word pairs or parts of words. The hash is CRC-32,
    the same everywhere and always.

    Args:
      dim: of the vectors; two n-grams in general fall on different places.
    """

    id = "hashed-ngrams-v1"
    normalised = True

    def __init__(self, dim: int = 256):
        self.dim = dim

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), dim], each of length 1 (0 for a text without letters or digits)."""
        distinct = {text: self._embed(text) for text in dict.fromkeys(texts)}
        rows = [distinct[text] for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

    def _embed(self, text: str) -> np.ndarray:
        vector_E = np.zeros(self.dim, np.float64)
        for ngram, weight in _ngrams(text):
            digest = zlib.crc32(ngram.encode())
            # The lowest bit gives the sign, so that collisions cancel rather than add up.
            vector_E[(digest >> 1) % self.dim] += weight if digest & 1 else -weight
        length = np.linalg.norm(vector_E)
        return (vector_E / length if length else vector_E).astype(np.float32)


# fmt: off
_STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "by", "from", "in", "is", "it", "its", "of", "on", "or",
    "the", "then", "to", "with",
))
# fmt: on
_WORD_WEIGHT, _CHARACTER_WEIGHT = 1.0, 0.25


def _ngrams(text: str) -> list[tuple[str, float]]:
    """(n-gram, weight): words, pairs of words, and runs of 3 to 5 characters within words."""
    words = [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _STOP_WORDS]
    ngrams = [(f"1 {word}", _WORD_WEIGHT) for word in words]
    ngrams += [(f"2 {a} {b}", _WORD_WEIGHT) for a, b in itertools.pairwise(words)]
    for word in words:
        padded = f"<{word}>"
        for size in (3, 4, 5):
            runs = range(len(padded) - size + 1)
            ngrams += [(f"c {padded[i : i + size]}", _CHARACTER_WEIGHT) for i in runs]
    return ngrams


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One phrase of a prompt bank and the class that it is of."""

    cls: str
    phrase: str


BANK_VERSION = 1
# Our own words: LAP's phrases aren't published. What is seen comes in the captioner's vocabulary.
_BANKS = {
    "ucf_crime": {
        "Abuse": (
            "hitting a helpless victim, erratic motion to and fro close together in one spot",
            "dragging and kicking someone, violent erratic motion to and fro",
        ),
        "Arrest": (
            "officers wrestling with a suspect, violent erratic motion close together in one spot",
            "a suspect tackled after a chase, erratic motion to and fro in part of the scene",
        ),
        "Arson": (
            "setting a place on fire, bright orange flames flickering",
            "flames flickering and smoke rising, erratic motion to and fro in part of the scene",
        ),
        "Assault": (
            "attacking someone with violent blows, violent erratic motion close together",
            "beating a person, erratic motion to and fro close together in one spot",
        ),
        "Burglary": (
            "breaking in by force, erratic motion to and fro in one spot",
            "ransacking a place and running away, erratic motion to and fro, scattering outwards",
        ),
        "Explosion": (
            "an explosion, a sudden bright flash, bright orange flames flickering",
            "a blast with smoke and debris scattering outwards, violent erratic motion",
        ),
        "Fighting": (
            "people fighting, violent erratic motion to and fro close together in one spot",
            "several people-sized regions brawling, erratic motion to and fro close together",
        ),
        "RoadAccidents": (
            "vehicle-shaped regions moving very fast and colliding, violent erratic motion",
            "a crash, debris scattering outwards, erratic motion to and fro in one spot",
        ),
        "Robbery": (
            "robbers struggling with a clerk, violent erratic motion close together in one spot",
            "snatching a bag by force, erratic motion to and fro, scattering outwards",
        ),
        "Shooting": (
            "gun shots, a sudden bright flash, people scattering outwards",
            "people fleeing from shots, a sudden bright flash, erratic motion to and fro",
        ),
        "Shoplifting": (
            "stuffing goods into a bag with quick hands, erratic motion to and fro in one spot",
            "grabbing goods from a shelf, erratic motion to and fro close together",
        ),
        "Stealing": (
            "tearing something loose, erratic motion to and fro in one spot",
            "snatching something and fleeing, violent erratic motion to and fro",
        ),
        "Vandalism": (
            "smashing things with heavy swings, violent erratic motion to and fro in one spot",
            "wrecking a machine, debris scattering outwards, erratic motion to and fro",
        ),
    }
}


def prompt_bank(name: str) -> list[Prompt]:
    """The anomaly prompts of this name, two a class; raises UserError for an unknown one."""
    if name not in _BANKS:
        raise UserError(f"expected a prompt bank of {', '.join(_BANKS)}, found {name!r}")
    return [Prompt(cls, phrase) for cls, phrases in _BANKS[name].items() for phrase in phrases]


def save_bank(
    folder: str | os.PathLike,
    name: str,
    prompts: Sequence[Prompt],
    encoder_id: str,
    bank_KxE: np.ndarray,
) -> None:
    """Writes bank.json (what the rows are) and bank.npy (the rows) into a store's folder."""
    content = {
        "bank": name,
        "version": BANK_VERSION,
        "encoder": encoder_id,
        "prompts": [{"class": prompt.cls, "phrase": prompt.phrase} for prompt in prompts],
    }
    folder = pathlib.Path(folder)
    write_atomically(folder / "bank.json", (json.dumps(content, indent=1) + "\n").encode())
    buffer = io.BytesIO()
    np.save(buffer, bank_KxE.astype(np.float32), allow_pickle=False)
    write_atomically(folder / "bank.npy", buffer.getvalue())
