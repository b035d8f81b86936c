"""The video filter: which generated clips are sound enough to train on.

    python -m generation.filter --store=SYN --reference_store=REAL --prompts=prompts.jsonl \\
        --preset=strict --out=decisions.jsonl
    python -m generation.filter --scores=decisions.jsonl --preset=light --out=light.jsonl
    python -m generation.filter ... --keep_normal=0.62 --keep_abnormal=0.39

Three stages: integrity (what could be decoded), pixels (generation/pixels.py, measured while
encoding) and features (generation/clip_scores.py). Deciding is a pure function of the scores, which
are all stored, with what real videos have beside them in OUT.thresholds.json: it is free to repeat,
without models, videos or stores. What couldn't be judged is named. Pixels, and features without
CLIP's text, can't tell that a clip shows something else than its description says.
"""

import json
import pathlib
import sys

from absl import flags

from generation.filter.decisions import load_decisions, save_decisions
from generation.filter.filtering import FilterOptions, decide, evidence_of, summary
from gvvad_jax.command import UserError, define_flags, from_flags, run_command


def main(_) -> None:
    if not _OUT.value or bool(_STORE.value) == bool(_SCORES.value):
        raise UserError(
            "--out, --store, --scores: expected a file to write, and a store to judge or earlier "
            "decisions; give --out and one of the two others"
        )
    if _SCORES.value and (_REFERENCE.value or _PROMPTS.value or _WEIGHTS.value):
        raise UserError(
            "--scores: expected no --reference_store, --prompts or --clip_weights beside it, found "
            "one: what they say is in the scores; leave them out, or give --store"
        )
    options = from_flags(FilterOptions)
    pathlib.Path(_OUT.value).resolve().parent.mkdir(parents=True, exist_ok=True)
    if _SCORES.value:
        _, evidence = load_decisions(_SCORES.value)
    else:
        evidence = evidence_of(_STORE.value, _REFERENCE.value, _PROMPTS.value, _WEIGHTS.value)
    decisions = decide(evidence, options)
    for name, why in evidence.not_judged.items():
        print(f"not judged: {name}: {why}", file=sys.stderr)
    save_decisions(_OUT.value, decisions, evidence, options)
    counts = summary(decisions, evidence.labels, evidence)
    print(json.dumps({"out": _OUT.value, "preset": options.preset} | counts))


if __name__ == "__main__":
    _STORE = flags.DEFINE_string("store", None, "Store of the clips to judge.")
    _SCORES = flags.DEFINE_string("scores", None, "Earlier decisions, to decide on anew.")
    _REFERENCE = flags.DEFINE_string("reference_store", None, "Store of the real videos.")
    _PROMPTS = flags.DEFINE_string("prompts", None, "Descriptions, to compare CLIP features with.")
    _WEIGHTS = flags.DEFINE_string("clip_weights", "", "The checkpoint that --store is encoded by.")
    _OUT = flags.DEFINE_string("out", None, "decisions.jsonl to write.")
    define_flags(FilterOptions)
    run_command(main, usage=__doc__)
