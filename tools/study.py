"""Studies: many runs of one question, resumable run by run.

    python -m tools.study --flagfile=configs/studies/helps_footage.flags [--videos=VIDEOS.json]
    python -m tools.study --flagfile=configs/studies/helps_footage.flags --table
    python -m tools.study --study=ped2 --flagfile=configs/ped2.flags --videos=videos.json --out=DIR

grid: trains arms, such as with and without generated videos, on several draws of footage and
generated videos, numbers of real videos, and detectors (tools/studies/grid.py). The flagfile names
the arms and the table, a CSV to which each finished run adds a row; a row that it holds isn't run
again. --table prints means and paired differences of that CSV without running anything, and
--features_table writes a second table, measured on features: how far the generated videos lie from
the real ones (gaps), or which of a domain's videos should standardise it (standards). Stores and
runs lie below --out and are made again from their seeds. Exit status 3: some rows couldn't be run.

ped2: one detector on a small real data set, on the split of videos.json and on random splits of 6
abnormal and 4 normal training videos, beside rules that learn nothing (tools/studies/ped2.py).
Prints a table on standard error and one JSON object on standard output; DIR/summary.json adds
confidence intervals and p-values.

The flags of training go into the flagfile.
"""

import json
import pathlib
import sys

from absl import flags

from gvvad_jax.command import UserError, define_flags, from_flags, run_command
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import folders
from gvvad_jax.store.files import write_json
from tools.studies import grid, ped2, rows, statistics, tables


def main(_: list[str]) -> None:
    if flags.FLAGS.study == "ped2":
        return _ped2()
    study, arms = from_flags(grid.GridStudy), grid.parse_arms(flags.FLAGS.arm)
    if flags.FLAGS.table and flags.FLAGS.features_table:
        from tools.studies import gaps, standards

        if flags.FLAGS.features_table == "gaps":
            print(gaps.table_text(rows.read_records(gaps.path_of(study), gaps.Gap)))
        else:
            records = rows.read_records(standards.path_of(study), standards.Standard)
            print(standards.table_text(records))
        return None
    if flags.FLAGS.table:
        bases = {arm.name: arm.base or arms[0].name for arm in arms}
        shown = {"measure": flags.FLAGS.measure, "alternative": flags.FLAGS.alternative}
        held = [row for row in rows.read(pathlib.Path(study.csv)) if row.cell.arm in bases]
        if all(row.measures[shown["measure"]] is None for row in held):
            raise UserError(
                f"{study.csv}: expected rows of the study's arms with {shown['measure']}, found "
                "none; run the study first (without --table), or correct --csv or --measure"
            )
        print(tables.study_table(held, bases=bases, **shown))
        return None
    study.require_videos()
    if flags.FLAGS.features_table:
        from tools.studies import gaps, standards

        table = gaps if flags.FLAGS.features_table == "gaps" else standards
        table.measure(study)
        print(table.path_of(study))
        return None
    from tools.studies import running

    failed = running.run(study, from_flags(TrainConfig), arms)
    if failed:
        print(f"{failed} rows could not be run; the study went on with the others", file=sys.stderr)
        sys.exit(3)
    return None


def _ped2() -> None:
    study = from_flags(ped2.Ped2Study)
    folders.claim(study.folder, "study", signs=("runs", "summary.json"))
    result = ped2.run(study, from_flags(TrainConfig))
    write_json(study.folder / "summary.json", result)
    print(tables.ped2_table(result), file=sys.stderr)
    print(json.dumps(statistics.brief(result)))


if __name__ == "__main__":
    # Stores, folders and seeds are those of each run.
    own = ("store", "synthetic_store", "synthetic_keep", "annotations", "workdir", "seed")
    define_flags(ped2.Ped2Study, grid.GridStudy, TrainConfig, set_here=own)
    flags.DEFINE_enum("study", "grid", ["grid", "ped2"], "Study to run.")
    flags.DEFINE_multi_string(
        "arm",
        [],
        "Way to train, NAME: FLAGS of training, with --keep=none|all|filter|random (which "
        "generated videos) and --base=NAME (the arm to compare with, else the first).",
    )
    flags.DEFINE_bool("table", False, "Print tables of --csv and run nothing.")
    flags.DEFINE_enum(
        "features_table",
        None,
        ["gaps", "standards"],
        "Measure features instead of training: how far generated videos lie from real ones, or "
        "which of a domain's videos should standardise it.",
    )
    flags.DEFINE_enum("measure", "auc", rows.MEASURES, "Measure that --table shows.")
    flags.DEFINE_enum(
        "alternative",
        "two-sided",
        ["two-sided", "greater", "less"],
        "What --table tests: that an arm differs, is better (greater) or is worse (less).",
    )
    run_command(main, usage=__doc__)
