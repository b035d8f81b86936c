"""Descriptions of surveillance scenes in normal/abnormal twins, from four elements.

    python -m generation.prompts --num_pairs=130 --seed=0 --out=prompts.jsonl
    python -m generation.prompts --writer=chat --chat_model=MODEL --num_pairs=130 \\
        --sampling='{"temperature": 1.0}' --out=prompts.jsonl

A description says viewpoint, location, subject and event; its twin shares the first three, and
the seed, so the event alone tells them apart. The built-in grammar writes them without a network;
a language model behind any OpenAI-compatible API writes freer ones (generation/prompts_chat.py).
Killed anywhere, the same command goes on. Prints one JSON object; with pairs missing after all
attempts, what is there goes to *.incomplete.jsonl and the exit status is 1.
"""

import json
import pathlib
import sys

from absl import flags

from generation.chat.options import ChatOptions
from generation.prompts.by_chat_file import write_by_chat
from generation.prompts.descriptions import print_coverage, save_descriptions
from generation.prompts.grammar import write_grammar
from gvvad_jax.command import UserError, define_flags, from_flags, run_command


def main(_) -> None:
    if not pathlib.Path(_OUT.value).name:
        raise UserError(f"--out: expected a file to write, found {_OUT.value!r}; name one")
    if _WRITER.value == "grammar":
        descriptions = write_grammar(_NUM_PAIRS.value, _SEED.value)
        save_descriptions(_OUT.value, descriptions)
        print_coverage(descriptions)
        print(json.dumps({"out": _OUT.value, "descriptions": len(descriptions)}))
        return
    summary = write_by_chat(
        _OUT.value,
        _NUM_PAIRS.value,
        _SEED.value,
        from_flags(ChatOptions),
        clip_tokenizer=_CLIP_TOKENIZER.value,
        allow_missing=_ALLOW_MISSING.value,
    )
    print(json.dumps(summary))
    if not summary["complete"]:
        print(
            f"error: {_OUT.value}: expected all pairs, found {len(summary['missing'])} missing; "
            + summary["remedy"],
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    _WRITER = flags.DEFINE_enum(
        "writer", "grammar", ["grammar", "chat"], "The built-in grammar, or a language model."
    )
    _NUM_PAIRS = flags.DEFINE_integer("num_pairs", 130, "Pairs of normal and abnormal twins.")
    _SEED = flags.DEFINE_integer("seed", 0, "Another seed gives another order of everything.")
    _OUT = flags.DEFINE_string("out", "prompts.jsonl", "The file to write.")
    _CLIP_TOKENIZER = flags.DEFINE_string(
        "clip_tokenizer", "", "chat: folder of a CLIP tokenizer that measures phrases exactly."
    )
    _ALLOW_MISSING = flags.DEFINE_integer(
        "allow_missing", 0, "chat: pairs that may be missing from a complete file.", lower_bound=0
    )
    define_flags(ChatOptions)
    run_command(main, usage=__doc__)
