"""Decide which generated videos are good enough to train on.

    python -m generation.filter --store=SYN --reference_store=REAL --prompts=prompts.jsonl \\
        --preset=strict --out=decisions.jsonl
    python -m generation.filter --scores=decisions.jsonl --preset=light --out=light.jsonl
    python -m generation.filter ... --keep_normal=0.62 --keep_abnormal=0.39

The filter judges integrity (how much could be decoded), pixels (measured while encoding) and
features. Decisions are a pure function of the scores. All scores are written, and those of real
videos go to OUT.thresholds.json, so deciding again with --scores needs no models, videos or stores.
Scores that could not be computed are named. Pixels, and features without CLIP's text tower, cannot
tell whether a video shows what its description says.
"""

import dataclasses
import glob
import json
import pathlib
import sys

from generation.filter.deciding import FilterOptions, decide, nothing_kept, summary
from generation.filter.decisions import (
    load_decisions,
    require_own,
    save_decisions,
    thresholds_path,
)
from generation.filter.evidence import gather_from_files, require_videos
from gvvad_jax.command import UserError, define_flags, from_flags, group, run_command
from gvvad_jax.store import folders

DATA = group("Data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterFiles:
    """The files that the command reads and writes."""

    store: str = DATA("", "Store of the generated videos to judge.")
    scores: str = DATA("", "Earlier decisions whose scores to decide on again, instead of --store.")
    reference_store: str = DATA("", "Store of the real videos. Required by --preset=strict.")
    prompts: str = DATA(
        "", "Descriptions to compare with CLIP features, a prompts.jsonl (default: none)."
    )
    clip_weights: str = DATA(
        "",
        "CLIP checkpoint with which --store was encoded: a Hub name or a folder (default: "
        "openai/clip-vit-large-patch14).",
    )
    out: str = DATA("", "File of decisions to write, a .jsonl. Required.")


def main(_) -> None:
    files, options = from_flags(FilterFiles), from_flags(FilterOptions)
    if not files.out or bool(files.store) == bool(files.scores):
        raise UserError(
            "--out, --store, --scores: expected a file to write, and a store to judge or earlier "
            "decisions; give --out and one of the two others"
        )
    if files.scores and (files.reference_store or files.prompts or files.clip_weights):
        raise UserError(
            "--scores: expected no --reference_store, --prompts or --clip_weights beside it, found "
            "one, but the scores already depend on them; leave them out, or give --store"
        )
    out = pathlib.Path(files.out)
    require_own(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    for path in (out, thresholds_path(out)):  # Of runs that were killed.
        folders.clear_litter(out.parent, f".{glob.escape(path.name)}.*.partial")
    if files.scores:
        _, evidence = load_decisions(files.scores)
    else:
        evidence = gather_from_files(
            files.store, files.reference_store, files.prompts, files.clip_weights
        )
    require_videos(evidence, files.store or files.scores)
    decisions = decide(evidence, options)
    for name, reason in evidence.not_judged.items():
        print(f"not judged: {name}: {reason}", file=sys.stderr)
    save_decisions(files.out, decisions, evidence, options)
    counts = summary(decisions, evidence.labels, evidence)
    counts["warnings"] = nothing_kept(decisions, evidence, options)
    for line in counts["warnings"]:
        print(line, file=sys.stderr)
    print(json.dumps({"out": files.out, "preset": options.preset} | counts))


if __name__ == "__main__":
    define_flags(FilterFiles, FilterOptions)
    run_command(main, usage=__doc__)
