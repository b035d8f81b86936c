"""Writes the filter's decisions as one HTML page, readable without a network.

    python -m tools.filter_report --decisions=decisions.jsonl --videos=GENERATED/videos.json \\
        --prompts=prompts.jsonl --out=filter.html

The page has counts by label and reason; of each score a histogram of real training videos, kept and
dropped videos with the bounds drawn in; and pictures of some videos with the reasons and the
description. Without --videos there are no pictures, without --prompts no descriptions. Prints one
JSON object.
"""

import json
import pathlib

from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.store import annotations, folders
from gvvad_jax.store.files import read_json, write_atomically
from tools.pages import filter as filter_page


def main(_: list[str]) -> None:
    values = flags.FLAGS
    if not values.decisions or not values.out:
        raise UserError(
            "--decisions, --out: expected decisions.jsonl and a page to write; give both"
        )
    folders.require_own_file(values.out, b"<!DOCTYPE html>")
    from generation.filter.decisions import load_decisions, thresholds_path
    from generation.prompts.descriptions import load_descriptions

    decisions, evidence = load_decisions(values.decisions)
    thresholds = read_json(thresholds_path(values.decisions))
    descriptions, pictures = {}, {}
    if values.prompts:
        descriptions = {d.id: d.description for d in load_descriptions(values.prompts)}
    if values.videos:
        videos = annotations.load(values.videos)
        shown = filter_page.choose(decisions, values.clips)
        pictures = filter_page.read_pictures(videos, shown)
    content = filter_page.page(decisions, thresholds, pictures, descriptions)
    pathlib.Path(values.out).resolve().parent.mkdir(parents=True, exist_ok=True)
    write_atomically(values.out, content.encode())
    print(json.dumps({"out": values.out, "clips": len(evidence.scores), "shown": len(pictures)}))


if __name__ == "__main__":
    flags.DEFINE_string("decisions", None, "The filter's decisions.jsonl. Required.")
    flags.DEFINE_string("videos", None, "The videos.json of the generated videos, for pictures.")
    flags.DEFINE_string("prompts", None, "The prompts.jsonl of the videos, for descriptions.")
    flags.DEFINE_integer("clips", 40, "Largest number of generated videos to show.", 0)
    flags.DEFINE_string("out", None, "HTML file to write. Required.")
    run_command(main, usage=__doc__)
