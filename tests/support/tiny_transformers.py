"""Tiny random checkpoints of the real classes of transformers: GIT, BERT, and a whole CLIP.

They are saved with save_pretrained, so that they load like published ones. Their weights vary so
much that different pictures and different texts give very different results.
"""

import pathlib

import torch
import transformers

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# fmt: off
WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "man", "walks", "runs", "car",
    "red", "blue", "box", "sits", "the", "dog", "on",
]
# fmt: on
SEP = WORDS.index("[SEP]")
SIZES = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
VISION = SIZES | {"num_hidden_layers": 1, "image_size": 16, "patch_size": 8}
TEXT = SIZES | {"vocab_size": len(WORDS), "max_position_embeddings": 64, "pad_token_id": 0}


def talkative(model_class, config, shortness=0.7):
    """Makes a model whose captions differ between pictures, some of them short."""
    torch.manual_seed(0)
    model = model_class(config)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.7)
        elif name in ("output.bias", "text_decoder.cls.predictions.bias"):
            weight.data[SEP] = shortness
    return model


def save_words(folder: pathlib.Path) -> None:
    """Saves a tokenizer of WORDS."""
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)


def save_git(folder: pathlib.Path) -> pathlib.Path:
    """Saves a GIT captioner of six frames."""
    config = transformers.GitConfig(
        vision_config=VISION, num_image_with_embedding=6, bos_token_id=2, eos_token_id=SEP, **TEXT
    )
    talkative(transformers.GitForCausalLM, config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    transformers.CLIPImageProcessorPil(**size).save_pretrained(folder)
    save_words(folder)
    return folder


def _lively(model_class, config):
    """Makes a model whose vectors of different texts differ a lot."""
    torch.manual_seed(0)
    model = model_class(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    return model


def save_bert(folder: pathlib.Path) -> pathlib.Path:
    """Saves a BERT of at most 40 letters."""
    words = [*WORDS[:5], *LETTERS, *(f"##{c}" for c in LETTERS)]
    vocabulary = {word: number for number, word in enumerate(words)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=40, **SIZES)
    _lively(transformers.BertModel, config).save_pretrained(folder)
    return folder


def save_clip(folder: pathlib.Path) -> pathlib.Path:
    """Saves a CLIP with both towers, like published ones."""
    tokens = [*LETTERS, *(f"{c}</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokens), max_position_embeddings=77, projection_dim=6,
        bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1, pad_token_id=len(tokens) - 1,
        **SIZES,
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(image_size=16, patch_size=8, projection_dim=6, **SIZES)
    config = transformers.CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=6
    )
    _lively(transformers.CLIPModel, config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    transformers.CLIPImageProcessorPil(**size).save_pretrained(folder)
    return folder
