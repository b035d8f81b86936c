"""The files that the project reads, each with sound examples and with what reads them."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from gvvad_jax import evaluation, flagfiles, splits
from gvvad_jax.store import files
from gvvad_jax.store.reader import Store
from tests.support import stores


@dataclasses.dataclass(frozen=True)
class Subject:
    """A format.

    Attributes:
      make: writes sound files into a folder.
      patterns: which of them to damage.
      read: reads the folder; returns what was read, as bytes or values that can be compared.
      sealed: whether a digest covers the files, so that damage is refused or changes nothing.
    """

    make: Callable[[pathlib.Path], None]
    patterns: tuple[str, ...]
    read: Callable[[pathlib.Path], Any]
    sealed: bool = False


def _make_store(folder):
    stores.write_store(folder / "store", {"train": (2, 2), "test": (1, 1)}, lengths=(2, 4))
    stores.reseal(folder / "store")  # With the bank that was added to it.


def _read_store(folder):
    store = Store(folder / "store")
    bank = files.load_array(folder / "store" / "bank.npy", "a bank")
    return bank.tobytes(), {
        video_id: (
            store.rows[video_id],
            np.asarray(video.visual_TxNxD).tobytes(),
            np.asarray(video.text_TxE).tobytes(),
        )
        for video_id, video in store.items()
    }


def _read_splits(folder):
    store = Store(folder / "store")
    return [(member.video.id, member.video.label) for member in splits.members_of(store, None)]


def _make_truth(folder):
    intervals = [[10, 20], [30, 31]]
    entry = {"file": "a.mp4", "label": 1, "split": "test", "fps": 10, "num_frames": 40}
    videos = {"a": entry | {"abnormal_frames": intervals}, "b": entry | {"label": 0}}
    (folder / "videos.json").write_text(json.dumps({"videos": videos}))
    scores = {name: np.linspace(0, 1, 40, dtype=np.float32) for name in "ab"}
    files.write_arrays(folder / "scores.npz", scores)


def _measure(folder):
    return evaluation.measure_files(str(folder / "scores.npz"), str(folder / "videos.json"))


def _make_decisions(folder):
    lines = [json.dumps({"id": name, "keep": name != "b"}) + "\n" for name in "abc"]
    (folder / "decisions.jsonl").write_text("".join(lines))


def _make_flagfile(folder):
    (folder / "x.flags").write_text("# A comment\n--steps=10\n--lambda_value=0.5\n--notext\n")


def _make_features(folder):
    np.save(folder / "a.npy", np.ones((5, 2, 3), np.float32))


def _read_features(folder):
    return files.load_array(folder / "a.npy", "features").shape


_RUN = {
    "detector": "mil_rank",
    "segments": 4,
    "batch_size": 2,
    "steps": 2,
    "log_every": 1,
    "validate_every": 2,
    "checkpoint_every": 2,
}


def _config(folder):
    from gvvad_jax.config import TrainConfig

    return TrainConfig(store=str(folder / "store"), workdir=str(folder / "run"), **_RUN)


def _make_run(folder):
    from gvvad_jax import training

    _make_store(folder)
    training.fit(_config(folder))


def _score(folder):
    from gvvad_jax import scoring

    scores = scoring.load(folder / "run").score(Store(folder / "store"))
    return {video_id: scores_T.tobytes() for video_id, scores_T in scores.items()}


def _resume(folder):
    from gvvad_jax import training

    return training.fit(_config(folder)).steps


def _make_prompts(folder):
    from generation.prompts.descriptions import save_descriptions
    from generation.prompts.grammar import write_grammar

    save_descriptions(folder / "prompts.jsonl", write_grammar(2, seed=0))


def _read_prompts(folder):
    from generation.prompts.descriptions import load_descriptions

    return load_descriptions(folder / "prompts.jsonl")


def _make_videos(folder):
    from generation.media.writing import write_video
    from tests.support.tiny_videos import moving, write_image

    write_video(folder / "a.mp4", moving(12), fps=10)
    write_image(folder / "b.png", moving(1)[0])
    for name, codec in (("a.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.ts", "mpeg2video")):
        _write(folder / name, codec, moving(12))


def _write(path, codec, frames_FxHxWx3):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames_FxHxWx3.shape[1:3], "yuv420p"
        for frame_HxWx3 in frames_FxHxWx3:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HxWx3, "rgb24")))
        container.mux(stream.encode())


def _decode(folder):
    from generation.media.containers import UnreadableError
    from generation.media.reading import Reader

    shapes = {}
    for path in sorted(folder.glob("[ab].*")):
        try:
            reader = Reader(path)
            frames = reader.frames(range(10**9), threads=False)
            shapes[path.name] = [picture.rgb().shape for _, picture in frames]
        except UnreadableError as error:
            shapes[path.name] = str(error)
    return shapes


def _make_state_dict(folder):
    import collections

    import torch

    state = collections.OrderedDict(weight=torch.ones(3, 2), bias=torch.zeros(3))
    torch.save({"state_dict": state, "epoch": 3}, folder / "a.pth")


def _read_state_dict(folder):
    from tools.published import state_dicts

    return {name: value.shape for name, value in state_dicts.read(str(folder / "a.pth")).items()}


SUBJECTS = {
    "store": Subject(
        _make_store,
        ("store/manifest.json", "store/shard-*", "store/bank.*"),
        _read_store,
        sealed=True,
    ),
    "the list in a store": Subject(_make_store, ("store/videos.json",), _read_splits),
    "truth and scores": Subject(_make_truth, ("videos.json", "scores.npz"), _measure),
    "decisions": Subject(
        _make_decisions,
        ("decisions.jsonl",),
        lambda folder: splits.read_decisions(str(folder / "decisions.jsonl")),
    ),
    "a flagfile": Subject(
        _make_flagfile,
        ("x.flags",),
        lambda folder: flagfiles.expand(["x", f"--flagfile={folder}/x.flags"], "gvvad_jax.train"),
    ),
    "an array": Subject(_make_features, ("a.npy",), _read_features),
    "checkpoints": Subject(_make_run, ("run/checkpoints/**/*",), _score, sealed=True),
    "a model": Subject(_make_run, ("run/model.json",), _score),
    "a run": Subject(
        _make_run, ("run/config.flags", "run/begun.json", "run/*.jsonl", "run/*.json"), _resume
    ),
    "descriptions": Subject(_make_prompts, ("prompts.jsonl",), _read_prompts),
    "videos": Subject(_make_videos, ("a.*", "b.png"), _decode),
    "a state dict": Subject(_make_state_dict, ("a.pth",), _read_state_dict),
}
