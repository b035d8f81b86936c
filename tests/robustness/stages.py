"""The commands that write folders: how to start each, and what of its output must always be so."""

import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess

from tests.support import stores
from tests.support.started import python

# Beside what a command makes: locks, logs of time, and what is remade from the rest.
_LEFT_OUT = (".lock", "events.out", "log.jsonl", "begun.json", ".partial")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A command.

    Attributes:
      module: its name.
      flags: its flags; {inputs} stands for the folder of inputs, {out} for that of the output.
      compared: patterns of the files whose bytes a run that was interrupted has in common with
        one that was not.
      room: bytes of a file system that is too small for its output.
    """

    module: str
    flags: tuple[str, ...]
    compared: tuple[str, ...]
    room: int

    def command(self, inputs, out):
        """Returns the command line."""
        filled = [flag.format(inputs=inputs, out=out) for flag in self.flags]
        return [*python(), "-m", self.module, *filled]

    def result(self, out):
        """Returns a digest of each file that is compared."""
        paths = sorted(p for pattern in self.compared for p in pathlib.Path(out).glob(pattern))
        return {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in paths
            if path.is_file() and not any(part in str(path) for part in _LEFT_OUT)
        }


_TRAIN = (
    *("--store={inputs}/store", "--synthetic_store={inputs}/synthetic", "--detector=mil_rank"),
    *("--segments=4", "--batch_size=2", "--steps=6", "--log_every=2"),
    *("--validate_every=3", "--checkpoint_every=2", "--compilation_cache={inputs}/programs"),
)
STAGES = {
    "prompts": Stage(
        "generation.prompts", ("--num_pairs=3", "--out={out}/prompts.jsonl"), ("*.jsonl",), 4096
    ),
    "videos": Stage(
        "generation.videos",
        (
            *("--prompts={inputs}/prompts.jsonl", "--backend=world", "--num_frames=9", "--fps=8"),
            *("--height=48", "--width=64", "--out={out}/clips"),
        ),
        ("clips/*.mp4", "clips/videos.json"),
        40_000,
    ),
    "encode": Stage(
        "generation.encode",
        (
            *("--videos={inputs}/clips/videos.json", "--prompts={inputs}/prompts.jsonl"),
            *("--source=synthetic", "--encoder=motion", "--out={out}/store"),
        ),
        ("store/shard-*", "store/manifest.json", "store/videos.json", "store/bank.*"),
        40_000,
    ),
    "filter": Stage(
        "generation.filter",
        ("--store={inputs}/encoded", "--preset=light", "--out={out}/decisions.jsonl"),
        ("decisions*",),
        4096,
    ),
    "train": Stage(
        "gvvad_jax.train", (*_TRAIN, "--workdir={out}/run"), ("run/result.json",), 100_000
    ),
}


def environment():
    """Returns the environment of a stage's process."""
    return os.environ | {"PYTHONPATH": os.getcwd()}


def start(command):
    """Starts a command whose output is captured."""
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def run(command, statuses=(0,)):
    """Runs a command; returns (exit status, standard error)."""
    with start(command) as process:
        _, errors = process.communicate(timeout=280)
    assert "Traceback" not in errors, errors
    assert process.returncode in statuses, errors
    return process.returncode, errors


def make_inputs(folder):
    """Makes what the stages read: stores, descriptions, clips of them and their store."""
    stores.write_store(folder / "store", {"train": (4, 4), "test": (2, 2)}, lengths=(2, 4))
    stores.write_store(
        folder / "synthetic", {"train": (2, 2)}, source="synthetic", prefix="syn-", seed=1
    )
    run(STAGES["prompts"].command(folder, folder))
    run(STAGES["videos"].command(folder, folder))
    done = Stage("generation.encode", (*STAGES["encode"].flags[:-1], "--out={out}/encoded"), (), 0)
    run(done.command(folder, folder))
    assert json.loads((folder / "clips" / "videos.json").read_text())["videos"]
    return folder
