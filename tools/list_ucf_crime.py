"""Writes the videos.json of UCF-Crime as it is distributed.

    python -m tools.list_ucf_crime --root=UCF_Crimes

Finds the videos anywhere under ROOT by their names, takes the splits from Anomaly_Train.txt and
Anomaly_Test.txt and the intervals of the test videos from Temporal_Anomaly_Annotation*.txt, and
writes ROOT/videos.json. Prints the number of videos as one JSON object.
"""

import collections
import json
import pathlib

from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.store.files import read_json, write_json
from tools.published import ucf_crime


def main(_: list[str]) -> None:
    root = flags.FLAGS.root
    if not root:
        raise UserError("--root: expected the folder of UCF-Crime, found none; name it")
    content = ucf_crime.list_videos(root)
    out = pathlib.Path(root) / "videos.json"
    if out.exists() and read_json(out) != content:
        raise UserError(
            f"{out}: expected no list here yet, found another one, which may be edited; move it "
            "away"
        )
    write_json(out, content)
    counts = collections.Counter((v["split"], v["label"]) for v in content["videos"].values())
    published = ucf_crime.PUBLISHED
    summary = {
        split: {"normal": counts[split, 0], "abnormal": counts[split, 1]} for split in published
    }
    complete = all(tuple(summary[split].values()) == published[split] for split in published)
    print(json.dumps({"out": str(out), **summary, "as_published": complete}))


if __name__ == "__main__":
    flags.DEFINE_string("root", None, "Folder that holds the videos and the three lists.")
    run_command(main, usage=__doc__)
