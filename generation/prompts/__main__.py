"""Write descriptions of surveillance scenes in normal/abnormal twins.

    python -m generation.prompts --num_pairs=130 --seed=0 --out=prompts.jsonl
    python -m generation.prompts --writer=chat --chat_model=MODEL --num_pairs=130 \\
        --sampling='{"temperature": 1.0}' --out=prompts.jsonl

A description names viewpoint, location, subject and event. Its twin shares the first three and the
seed, so that only the event differs. The built-in grammar writes them without a network; a language
model behind any OpenAI-compatible API (--writer=chat) writes more varied ones. If the command is
killed, run it again to continue. It prints one JSON object. If pairs are still missing after all
attempts, the others go to *.incomplete.jsonl and the exit status is 3, or 1 if there are none.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

from generation.chat.options import ChatOptions
from generation.prompts.descriptions import print_coverage, require_own, save_descriptions
from generation.prompts.grammar import write_grammar
from generation.prompts.slots import EVENT_CLASSES, parse_classes
from gvvad_jax.command import UserError, check, define_flags, from_flags, group, run_command

DESCRIPTIONS = group("Descriptions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """The file of descriptions to write."""

    writer: str = DESCRIPTIONS(
        "grammar",
        "Writer of the descriptions: the built-in grammar or a language model.",
        choices=("grammar", "chat"),
    )
    num_pairs: int = DESCRIPTIONS(130, "Number of pairs of a normal and an abnormal description.")
    classes: str = EVENT_CLASSES
    seed: int = DESCRIPTIONS(0, "Random seed; another seed gives another order of everything.")
    out: str = DESCRIPTIONS("prompts.jsonl", "File to write.")
    clip_tokenizer: str = DESCRIPTIONS(
        "",
        "Folder of a CLIP tokenizer that measures phrases exactly, with --writer=chat (default: an "
        "upper bound).",
    )
    allow_missing: int = DESCRIPTIONS(
        0, "Failures to allow: pairs of descriptions by chat, videos by diffusers.", low=0
    )

    def __post_init__(self):
        check(self)
        parse_classes(self.classes)


def main(_: Sequence[str]) -> None:
    options = from_flags(PromptOptions)
    if not pathlib.Path(options.out).name:
        raise UserError(f"--out: expected a file to write, found {options.out!r}; name one")
    require_own(options.out)
    classes = parse_classes(options.classes)
    if options.writer == "grammar":
        descriptions = write_grammar(options.num_pairs, options.seed, classes)
        save_descriptions(options.out, descriptions)
        print_coverage(descriptions)
        print(json.dumps({"out": options.out, "descriptions": len(descriptions)}))
        return
    # Imported here, because it needs pydantic.
    from generation.prompts import by_chat

    summary = by_chat.write_file(
        options.out,
        options.num_pairs,
        options.seed,
        from_flags(ChatOptions),
        classes=classes,
        clip_tokenizer=options.clip_tokenizer,
        allow_missing=options.allow_missing,
    )
    print(json.dumps(summary))
    if not summary["complete"]:
        print(
            f"error: {options.out}: expected all pairs, found {len(summary['missing'])} missing; "
            + summary["remedy"],
            file=sys.stderr,
        )
        sys.exit(3 if summary["descriptions"] else 1)


if __name__ == "__main__":
    define_flags(PromptOptions, ChatOptions)
    run_command(main, usage=__doc__)
