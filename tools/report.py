"""Compares training runs on one page: curves, measures with intervals, and what differs.

    python -m tools.report --workdir=RUN,RUN,... --out=report.html [--store=STORE] [--markdown]

Each run's test videos are scored again with its checkpoint, from the store that it was trained on,
or from --store. A run whose store is gone is reported from its result.json alone, and the page says
so. --out is an .html file, or a folder that gets report.html. The page needs no network; --markdown
writes the same beside it as .md, with the plots as SVG files. Prints one JSON object.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.config import CHECKPOINTS
from gvvad_jax.store import folders
from gvvad_jax.store.files import write_atomically
from gvvad_jax.store.reader import Store


def main(_: Sequence[str]) -> None:
    values = flags.FLAGS
    workdirs = [pathlib.Path(p) for each in values.workdir for p in each.split(",") if p]
    if not workdirs or not values.out:
        raise UserError("--workdir, --out: expected runs and a page to write; give both")
    out = _claimed(values.out, values.markdown)
    if values.store:
        # A wrong path is reported at once.
        Store(values.store, verify_rows=False)
    from tools.pages import report, report_markdown, report_runs

    runs = report_runs.with_scores(
        report_runs.read(workdirs), values.store, values.annotations, values.checkpoint,
        values.bootstrap,
    )  # fmt: skip
    videos, chosen_how = report_runs.choose_videos(runs, values.videos)
    content = report.content(runs, videos, chosen_how, values.checkpoint, values.bootstrap)
    write_atomically(out, report.page(content).encode())
    written = {"out": str(out), "runs": {run.name: run.scores is not None for run in runs}}
    if values.markdown:
        plots = _plots(out)
        for name, picture in report_markdown.pictures(content).items():
            write_atomically(plots / name, picture.encode())
        text = out.with_suffix(".md")
        write_atomically(text, report_markdown.markdown(content, plots.name).encode())
        written["markdown"] = str(text)
    print(json.dumps(written))


def _claimed(out: str, markdown: bool) -> pathlib.Path:
    """The page to write, once it is known that nothing of others is overwritten."""
    path = pathlib.Path(out)
    if path.suffix != ".html":
        path = folders.claim(path, "report", signs=["report.html"]) / "report.html"
    folders.require_own_file(path, b"<!DOCTYPE html>")
    path.resolve().parent.mkdir(parents=True, exist_ok=True)
    if markdown:
        folders.require_own_file(path.with_suffix(".md"), b"# ")
        folders.claim(_plots(path), "report's plots")
    return path


def _plots(page: pathlib.Path) -> pathlib.Path:
    """The folder of the Markdown's pictures."""
    return page.with_name(f"{page.stem}_plots")


if __name__ == "__main__":
    flags.DEFINE_multi_string(
        "workdir",
        [],
        "Folders of the runs, separated by commas; the flag may be repeated. Required.",
    )
    flags.DEFINE_string(
        "store",
        "",
        "Feature store with the test videos (default: the one each run was trained on).",
    )
    flags.DEFINE_string(
        "annotations", "", "Path of a videos.json that overrides the one in the store."
    )
    flags.DEFINE_enum(
        "checkpoint",
        "last",
        CHECKPOINTS,
        "Checkpoint of the runs to compare.",
    )
    flags.DEFINE_list(
        "videos",
        [],
        "Ids of test videos whose scores are drawn (default: a choice, which the page describes).",
    )
    flags.DEFINE_integer(
        "bootstrap",
        1000,
        "Draws of test videos, whole groups where videos.json has them, that intervals and "
        "comparisons rest on; 0 for none.",
        lower_bound=0,
    )
    flags.DEFINE_bool("markdown", False, "Also write the report as Markdown, with SVG files.")
    flags.DEFINE_string("out", "", "HTML file to write, or a folder for report.html. Required.")
    run_command(main, usage=__doc__)
