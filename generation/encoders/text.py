"""Text encoders: sentences to vectors, for captions and prompt banks.

`hashed` needs no weights: it hashes n-grams, so a caption lies close to the prompts whose words it
shares. `simcse` is the encoder of the published features; `clip-l14` is CLIP's text tower;
`transformer` is any BERT-like checkpoint. Vectors of different encoders are not comparable; their
ids tell them apart.
"""

import collections
import itertools
import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from generation.encoders import pretrained
from generation.encoders.options import TextOptions
from generation.encoders.protocols import TextEncoder
from gvvad_jax.command import UserError

# By kind: the default checkpoint, and which output is a text's vector.
_KINDS = {
    "simcse": ("princeton-nlp/sup-simcse-bert-base-uncased", "pooler"),
    "clip-l14": ("openai/clip-vit-large-patch14", "projection"),
    "transformer": ("", "mean"),
}
DEFAULT_WEIGHTS = {kind: weights for kind, (weights, _) in _KINDS.items()}


def make_text_encoder(options: TextOptions) -> TextEncoder:
    """Returns the text encoder that the options name.

    Raises:
      UserError: the weights are missing or of another model.
    """
    if options.text_encoder == "hashed":
        return HashedTextEncoder()
    return PretrainedTextEncoder(options)


class HashedTextEncoder:
    """Sentences to vectors by hashed word and character n-grams, without weights or vocabulary.

    Cosines are high where sentences share words, word pairs or parts of words. The hash is CRC-32,
    so that vectors are the same on every machine.
    """

    id = "hashed-ngrams-v1"
    normalised = True
    dim = 256

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns float32 [len(texts), dim] of length 1; 0 for texts without letters and digits."""
        distinct = {text: self._embed(text) for text in dict.fromkeys(texts)}
        rows = [distinct[text] for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

    def _embed(self, text: str) -> np.ndarray:
        vector_E = np.zeros(self.dim, np.float64)
        for ngram, weight in _ngrams(text):
            digest = zlib.crc32(ngram.encode())
            # The lowest bit gives the sign, so that collisions cancel out on average.
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
    """Returns (n-gram, weight) of words, pairs of words, and 3 to 5 characters within words."""
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
    length (77 tokens for CLIP) are truncated. All batches have the same number of rows, and their
    width depends on the text alone, so a vector's bits do not depend on the other texts: a run that
    was killed and resumed ends with the same rows. The computation is in float32.

    Args:
      options: the checkpoint and its device.

    Raises:
      UserError: the weights are missing, cannot be loaded or are of another model.

    Attributes:
      id, dim, normalised: see protocols.TextEncoder.
    """

    normalised = False
    # Widths of batches are multiples of this.
    step = 8
    longest = 512

    def __init__(self, options: TextOptions):
        transformers = pretrained.library()
        kind = options.text_encoder
        default_weights, self._pooling = _KINDS[kind]
        weights = options.text_weights or default_weights
        if not weights:
            raise UserError(
                f"--text_weights: expected a checkpoint for --text_encoder={kind}, found none; "
                "give its name or folder"
            )
        self._device = pretrained.choose_device(options.device)
        self._batch_size = pretrained.batch_size(self._device)
        clip = self._pooling == "projection"
        model_class = transformers.CLIPTextModelWithProjection if clip else transformers.AutoModel
        types = ("clip", "clip_text_model") if clip else ()
        options = {} if clip else {"trust_remote_code": False}
        expected = f"a {'CLIP' if clip else 'BERT-like'} checkpoint for --text_encoder={kind}"
        with pretrained.reading(weights, expected, "--text_weights"):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                weights, trust_remote_code=False
            )
            self._model = pretrained.load(
                model_class,
                weights,
                dtype=pretrained.torch_dtype("float32"),
                device=self._device,
                model_types=types,
                may_lack=("pooler",) if self._pooling == "mean" else (),
                **options,
            )
            digest = pretrained.digest(weights, pretrained.TEXTS)
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
        """Returns float32 [len(texts), dim]; repeated texts are embedded once."""
        distinct = {}
        for width, batch in self._batches(list(dict.fromkeys(texts))):
            rows_BxE = self._embed(batch, width)
            distinct |= dict(zip(batch, rows_BxE, strict=True))
        rows = [distinct[text] for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dim), np.float32)

    def _batches(self, texts: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Yields (width in tokens, texts of that width), at most a batch of them."""
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
