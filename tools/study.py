"""Studies: many runs of one question, resumable run by run.

    python -m tools.study --study=ped2 --flagfile=configs/ped2.flags --videos=videos.json --out=DIR

detectors: every detector with and without generated videos, on rendered footage and on --videos
(tools/studies/detectors.py).

ped2: one detector on a small real data set, on the split of videos.json and on random splits of 6
abnormal and 4 normal training videos, beside rules that learn nothing (tools/studies/ped2.py).

The flags of training go into the flagfile. Prints a table on standard error and one JSON object on
standard output; DIR/summary.json adds confidence intervals and p-values. Repeating the command
resumes the study; a finished run is a folder DIR/runs/NAME with a result.json.
"""

import json
import sys

from absl import flags

from gvvad_jax.command import define_flags, from_flags, run_command
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import folders
from gvvad_jax.store.files import write_json
from tools.studies import detectors, ped2, statistics, tables

STUDIES = {
    "ped2": (ped2.Ped2Study, ped2.run, tables.ped2_table),
    "detectors": (detectors.DetectorStudy, detectors.run, tables.detectors_table),
}


def main(_: list[str]) -> None:
    study_class, run, table = STUDIES[flags.FLAGS.study]
    study = from_flags(study_class)
    folders.claim(study.folder, "study", signs=("runs", "summary.json"))
    result = run(study, from_flags(TrainConfig))
    write_json(study.folder / "summary.json", result)
    print(table(result), file=sys.stderr)
    print(json.dumps(statistics.brief(result)))


if __name__ == "__main__":
    flags.DEFINE_enum("study", "ped2", list(STUDIES), "Study to run.")
    define_flags(ped2.Ped2Study, detectors.DetectorStudy, TrainConfig)
    run_command(main, usage=__doc__)
