"""Measures the peak memory of scoring one's own videos against their length.

    python -m tools.bench.watching_memory VIDEO...

Each video is scored, with pictures, clips and page, by a process of its own, with a detector of
usual size that nobody trained, on the motion encoder's features. Prints, by video, its seconds, how
long it took, and the process's peak in MB. A long video can be made by ffmpeg -stream_loop.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from tools.bench.workers import peak_bytes


def write_run(workdir: pathlib.Path) -> None:
    """Writes the run of an RTFM without training, with weights as training begins with."""
    from generation.encode.recipe import EncodeOptions
    from gvvad_jax import step
    from gvvad_jax.config import TrainConfig
    from gvvad_jax.run import checkpoints

    manifest = EncodeOptions(captioner="none").recipe().manifest()
    config = TrainConfig(workdir=str(workdir), detector="rtfm", feature_group="visual")
    workdir.mkdir()
    saved = checkpoints.Checkpoints(workdir)
    saved.save("last", 0, step.init_state(config, manifest.dim, 0), [None])
    saved.close()
    checkpoints.write_model(workdir, config, manifest, None)


def measure(video: str, workdir: str, out: str) -> dict[str, float]:
    """Scores a video in this process; returns its length, how long it took, and the peak."""
    from tools.watching import files, sources
    from tools.watching.options import WatchOptions

    began = time.monotonic()
    options = WatchOptions(workdir=workdir, out=out, threshold=0.5, clips=True)
    files.score(sources.find([video]), options)
    (path,) = pathlib.Path(out).glob("*.json")
    seconds = json.loads(path.read_text())["seconds"]
    took = time.monotonic() - began
    return {"seconds": seconds, "took": round(took, 1), "peak_mb": round(peak_bytes() / 1e6)}


def main(videos: list[str]) -> None:
    """Prints a line of JSON for each video."""
    with tempfile.TemporaryDirectory(prefix="watching-") as folder:
        workdir = pathlib.Path(folder) / "run"
        write_run(workdir)
        for number, video in enumerate(videos):
            command = [sys.executable, "-m", "tools.bench.watching_memory", "--one", video]
            command += [str(workdir), f"{folder}/{number}"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(json.dumps({"video": video} | json.loads(done.stdout.splitlines()[-1])))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main(sys.argv[1:])
