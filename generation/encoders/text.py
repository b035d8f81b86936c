"""Text embeddings: sentences to vectors, for captions and the prompt banks.

`hashed` needs no weights: hashed n-grams, so a caption lies close to the prompts whose words it
shares. `simcse` is what the published features were made with; `clip-l14` is CLIP's text tower;
`transformer` is any BERT-like checkpoint. Vectors of different encoders don't mix: the id says of
which encoder they are.
"""

import collections
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from generation.encoders import pretrained
from gvvad_jax.command import UserError

# The checkpoint unless another is given, and which output is a text's vector.
_KINDS = {
    "simcse": ("princeton-nlp/sup-simcse-bert-base-uncased", "pooler"),
    "clip-l14": ("openai/clip-vit-large-patch14", "projection"),
    "transformer": ("", "mean"),
}
TEXT_ENCODERS = ("hashed", *_KINDS)
DEFAULT_WEIGHTS = {name: weights for name, (weights, _) in _KINDS.items()}


def make_text_encoder(
    name: str, *, weights: str = "", device: str | None = None, dtype: str = "float32"
) -> Any:
    """The text encoder of this name: an object with id, dim, normalised and __call__(texts).

    Args:
      name: one of TEXT_ENCODERS.
      weights: another checkpoint's name or folder; `transformer` has none by itself.
      device: torch's name of it; a GPU where there is one unless told.
      dtype: of the model: float32, float16 or bfloat16. Vectors are float32 in any case.

    Raises:
      UserError: an unknown name, weights missing or of another model.
    """
    if name == "hashed":
        return HashedTextEmbedder()
    if name not in _KINDS:
        raise UserError(
            f"--text_encoder: expected one of {', '.join(TEXT_ENCODERS)}, found {name!r}"
        )
    weights = weights or _KINDS[name][0]
    if not weights:
        raise UserError(
            "--text_weights: expected a checkpoint for --text_encoder=transformer, found none; "
            "give its name or folder"
        )
    return PretrainedTextEncoder(name, weights, device=device, dtype=dtype)


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


class PretrainedTextEncoder:
    """Sentences to vectors by a transformers checkpoint, not normalised, as published.

    A text's vector is the pooler's output (simcse), CLIP's projected `text_embeds` (clip-l14) or
    the mean of the last layer's states over its tokens (transformer). Texts beyond the model's
    length (77 tokens for CLIP) are cut. Batches always have the same number of rows and a width
    that follows from the text itself, so a vector's bits don't depend on what else was asked for:
    a run that was killed and went on ends with the same rows.

    Args:
      kind: simcse, clip-l14 or transformer.
      weights: a checkpoint's name or folder, as transformers' from_pretrained takes it.
      device: torch's name of it; a GPU where there is one unless told.
      dtype: of the model.
      batch_size: texts through the model at once; 16 on a GPU and 1 on a CPU unless told.

    Raises:
      UserError: the weights can't be loaded or are another model's.

    Attributes:
      id, dim, normalised: for the store.
    """

    normalised = False
    # Widths of batches are multiples of this.
    step = 8
    longest = 512

    def __init__(
        self,
        kind: str,
        weights: str,
        *,
        device: str | None = None,
        dtype: str = "float32",
        batch_size: int | None = None,
    ):
        transformers = pretrained.library()
        self._pooling = _KINDS[kind][1]
        self._device = pretrained.choose_device(device)
        self._batch_size = pretrained.choose_batch_size(batch_size, self._device)
        clip = self._pooling == "projection"
        model_class = transformers.CLIPTextModelWithProjection if clip else transformers.AutoModel
        types = ("clip", "clip_text_model") if clip else ()
        options = {} if clip else {"trust_remote_code": False}
        expected = f"a {'CLIP' if clip else 'BERT-like'} checkpoint for --text_encoder={kind}"
        with pretrained.reading(weights, expected):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                weights, trust_remote_code=False
            )
            self._model = pretrained.load(
                model_class,
                weights,
                dtype=pretrained.choose_dtype(dtype),
                device=self._device,
                model_types=types,
                may_lack=("pooler",) if self._pooling == "mean" else (),
                **options,
            )
            digest = pretrained.digest(weights)
        config = self._model.config
        if (
            config.is_encoder_decoder
            or not hasattr(config, "max_position_embeddings")
            or self._tokenizer.pad_token_id is None
            or (self._pooling == "pooler" and getattr(self._model, "pooler", None) is None)
        ):
            raise UserError(
                f"{weights}: expected {expected}, found a {config.model_type}; give the checkpoint "
                "of a text encoder" + (" with a pooler" if self._pooling == "pooler" else "")
            )
        self.dim = config.projection_dim if clip else config.hidden_size
        self.id = f"{kind}:{pretrained.name_of(weights)}@{digest}:{self._pooling}"
        self._longest = min(
            self.longest, self._tokenizer.model_max_length, config.max_position_embeddings
        )

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), dim]; a text that comes again is embedded once."""
        distinct = {}
        for width, batch in self._batches(list(dict.fromkeys(texts))):
            rows_BxE = self._embed(batch, width)
            distinct |= dict(zip(batch, rows_BxE, strict=True))
        rows = [distinct[text] for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

    def _batches(self, texts: list[str]) -> Iterator[tuple[int, list[str]]]:
        """(width in tokens, texts of that width), at most batch_size at once."""
        if not texts:
            return
        tokens = self._tokenizer(texts, truncation=True, max_length=self._longest)["input_ids"]
        by_width = collections.defaultdict(list)
        for text, ids in zip(texts, tokens, strict=True):
            width = min(-(-len(ids) // self.step) * self.step, self._longest)
            by_width[width].append(text)
        for width, same in sorted(by_width.items()):
            for start in range(0, len(same), self._batch_size):
                yield width, same[start : start + self._batch_size]

    def _embed(self, texts: list[str], width: int) -> np.ndarray:
        import torch

        filled = texts + texts[-1:] * (self._batch_size - len(texts))
        inputs = self._tokenizer(
            filled,
            padding="max_length",
            padding_side="right",
            truncation=True,
            max_length=width,
            return_tensors="pt",
        ).to(self._device)
        with torch.inference_mode():
            outputs = self._model(**inputs)
            if self._pooling == "projection":
                rows_BxE = outputs.text_embeds
            elif self._pooling == "pooler":
                rows_BxE = outputs.pooler_output
            else:
                mask_BxLx1 = inputs["attention_mask"][..., None].float()
                states_BxLxE = outputs.last_hidden_state.float()
                rows_BxE = (states_BxLxE * mask_BxLx1).sum(dim=1) / mask_BxLx1.sum(dim=1)
        return rows_BxE.float().cpu().numpy()[: len(texts)]
