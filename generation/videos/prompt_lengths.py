"""Which prompts are longer than a text-to-video model reads, known before any video is generated.

A pipeline of diffusers cuts a prompt at its tokenizer's limit without an error. Twins that differ
only after the cut, and share their seed, would then come out as equal videos.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from generation.prompts.descriptions import Description
from generation.videos import loading
from gvvad_jax.command import UserError

# Tokenizers without a limit of their own have an astronomic one.
_NO_LIMIT = 1_000_000
# Limits that stand in the code of a pipeline alone.
_FIXED = {"LattePipeline": 120, "HunyuanVideo15Pipeline": 1000}
_SHOWN = 3  # ids in a message


def examine(
    model: str,
    revision: str | None,
    descriptions: Sequence[Description],
    arguments: Mapping[str, Any],
) -> str:
    """Finds the prompts that a model would cut.

    With several text encoders, a prompt counts as cut if each of them gets a part of it only.

    Args:
      model: Hub id or folder of a pipeline; its tokenizers alone are loaded.
      revision: branch, tag or commit on the Hub.
      descriptions: all descriptions of the set.
      arguments: arguments of the pipeline's call; others have the call's defaults.

    Returns:
      A sentence about the prompts that are cut; "" if there are none.

    Raises:
      UserError: twins would come out equal, or a tokenizer can't be loaded.
    """
    with loading.explained(model):
        name, limits = _limits(model, revision, arguments)
    if not limits:
        return ""
    texts = list(dict.fromkeys(description.description for description in descriptions))
    longest = max(limit for _, limit in limits)
    is_cut = dict.fromkeys(texts, True)
    kept: dict[str, tuple] = dict.fromkeys(texts, ())
    for tokenizer, limit in limits:
        whole = tokenizer(texts, verbose=False).input_ids
        parts = tokenizer(texts, verbose=False, truncation=True, max_length=limit).input_ids
        for text, all_tokens, tokens in zip(texts, whole, parts, strict=True):
            is_cut[text] &= len(all_tokens) > limit
            kept[text] += (tuple(tokens),)
    _refuse_equal_twins(name, longest, descriptions, kept)
    cut_ids = [one.id for one in descriptions if is_cut[one.description]]
    if not cut_ids:
        return ""
    return (
        f"{name} reads the first {longest} tokens of a prompt: the ends of {len(cut_ids)} of "
        f"{len(descriptions)} descriptions are lost ({_listed(cut_ids)})"
    )


def _limits(
    model: str, revision: str | None, arguments: Mapping[str, Any]
) -> tuple[str, list[tuple[Any, int]]]:
    """Returns the pipeline's name, and its tokenizers with the number of tokens that they keep."""
    import diffusers
    import transformers

    index = diffusers.DiffusionPipeline.load_config(model, revision=revision)
    name = str(index.get("_class_name"))
    pipeline_class = getattr(diffusers, name, None)
    default = _FIXED.get(name)
    for method in ("__call__", "encode_prompt"):
        parameters = inspect.signature(getattr(pipeline_class, method, lambda: None)).parameters
        if default is None and "max_sequence_length" in parameters:
            default = parameters["max_sequence_length"].default
    given = arguments.get("max_sequence_length", default)
    limits = []
    for component, library in index.items():
        if not component.startswith(("tokenizer", "text_tokenizer")) or None in library:
            continue
        tokenizer_class = getattr(transformers, library[1], transformers.AutoTokenizer)
        tokenizer = tokenizer_class.from_pretrained(model, subfolder=component, revision=revision)
        # Further tokenizers are CLIP's, whose limit no argument changes.
        limit = given if component in ("tokenizer", "text_tokenizer") else None
        limit = limit if isinstance(limit, int) and limit > 0 else tokenizer.model_max_length
        if limit < _NO_LIMIT:
            limits.append((tokenizer, int(limit)))
    return name, limits


def _refuse_equal_twins(
    name: str, longest: int, descriptions: Sequence[Description], kept: Mapping[str, tuple]
) -> None:
    ids_by_video: dict[tuple, dict[int, str]] = {}
    for one in descriptions:
        ids = ids_by_video.setdefault((one.seed, kept[one.description]), {})
        ids.setdefault(one.label, one.id)
    equal = [ids for ids in ids_by_video.values() if len(ids) > 1]
    if equal:
        raise UserError(
            f"--prompts: expected twins that differ in the {longest} tokens that {name} reads of a "
            f"prompt, found {len(equal)} pairs that would come out as equal videos "
            f"({_listed([' and '.join(ids.values()) for ids in equal])}); shorten the "
            "descriptions, or give a model that reads more"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
