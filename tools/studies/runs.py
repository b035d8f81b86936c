"""Training runs of a study: each is trained once and kept as long as its inputs are the same."""

import dataclasses
import hashlib
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError, check, option, to_flagfile
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import annotations, digests
from gvvad_jax.store.files import read_json, write_atomically
from gvvad_jax.store.reader import Store

MEASURES = ("auc", "auc_abnormal")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """What every study is given; each field is a flag."""

    videos: str = option("", "The videos.json of real video to study.")
    out: str = option(
        "", "Folder of the study; repeating the command resumes it (grid: runs/studies by default)."
    )
    seeds: int = option(
        10,
        "Number of runs of each configuration, one a seed: on the split of videos.json, or on each "
        "draw of a grid.",
        low=1,
    )

    def __post_init__(self):
        check(self)
        if not self.out:
            raise UserError("--out: expected a folder for the study, found none; give one")

    @property
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.out)


def finished_run(config: TrainConfig, measures: Sequence[str] = MEASURES) -> dict[str, Any]:
    """Returns a run's result.json, training only where none exists for these flags and inputs.

    Args:
      config: the run.
      measures: what its last checkpoint must have been measured by on the test videos.

    Raises:
      UserError: the folder has a run of other videos, annotations or decisions, or the store's
        test videos don't allow a measure.
    """
    from gvvad_jax import training

    workdir, inputs = pathlib.Path(config.workdir), _inputs_digest(config)
    result_path, flags_path = (workdir / name for name in ("result.json", "config.flags"))
    # Beside the run, because training takes an absent folder or a run's own.
    digest_path = workdir.with_name(f"{workdir.name}.made_of.txt")
    if digest_path.exists() and digest_path.read_text(encoding="utf-8") != inputs:
        raise UserError(
            f"{workdir}: expected a run of these videos, annotations and decisions, found a run of "
            "others; remove it and its sibling runs, or give another --out"
        )
    workdir.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(digest_path, inputs.encode())
    if result_path.exists() and flags_path.read_text() == to_flagfile(config):
        result = read_json(result_path)
    else:
        result = training.fit(config).to_json()
    missing = [name for name in measures if (result["last"] or {}).get(name) is None]
    if missing:
        raise UserError(
            f"{config.store}: the test videos don't allow {', '.join(missing)}; expected videos of "
            "both labels with abnormal_frames, some abnormal ones not abnormal throughout; add "
            "such videos to videos.json and encode again"
        )
    return result


def _inputs_digest(config: TrainConfig) -> str:
    """Digest of all that a result depends on besides flags: stores, annotations, decisions."""
    digest = hashlib.sha256()
    for path in filter(None, f"{config.store},{config.synthetic_store}".split(",")):
        opened = Store(path)
        digest.update(opened.digest().encode() + json.dumps(opened.videos.to_json()).encode())
    for path in filter(None, (config.annotations, config.synthetic_keep)):
        digest.update(pathlib.Path(path).read_bytes())
    return digest.hexdigest()


def baseline_scores(
    annotated: annotations.Annotations,
    videos: Sequence[annotations.VideoAnnotation],
    folder: pathlib.Path,
) -> dict[str, Mapping[str, np.ndarray]]:
    """Frame scores of the baselines by video id; each video is decoded once and its scores kept.

    Args:
      annotated: the videos.json that the videos belong to.
      videos: which of them.
      folder: where the scores are kept, one file a video, by a digest of the footage.
    """
    import tqdm

    from tools.studies import baselines

    folder = folder / baselines.footage_digest(annotated)
    folder.mkdir(parents=True, exist_ok=True)
    scores = {}
    for video in tqdm.tqdm(videos, desc="baselines", unit="video"):
        path = folder / f"{digests.of_text(video.id)[:16]}.npz"
        if not path.exists():
            buffer = io.BytesIO()
            np.savez(buffer, **baselines.score_video(annotated, video))
            write_atomically(path, buffer.getvalue())
        with np.load(path, allow_pickle=False) as arrays:
            scores[video.id] = {rule: arrays[rule] for rule in baselines.RULES}
    return scores
