"""The draws of a study: worlds and random splits, their stores, made again from their numbers.

Everything lies below the study's folder. A world is what generation.pipeline makes; a random split
of real videos shares their one store with all others.
"""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Mapping

import numpy as np

from generation import pipeline
from generation.encode import encoding
from generation.encode.recipe import DEFAULT_STRIDES, EncodeOptions
from generation.filter import deciding
from generation.filter.decisions import save_decisions
from generation.filter.evidence import gather
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, folders
from gvvad_jax.store.files import write_json
from gvvad_jax.store.reader import Store
from tools.studies import ped2
from tools.studies.grid import GENERATED_PAIRS, TEST_PAIRS, TRAIN_PAIRS, Cell, GridStudy

# Beside real video, random splits take turns with the clips of so many worlds, and of others from
# split 100 on.
CLIP_SETS = 5
# Control decisions of a draw, which take turns over the seeds.
RANDOM_DROPS = 4
_VIDEO_ENDINGS = (".gif", ".mp4", ".avi", ".mkv", ".webm", ".mov")


@dataclasses.dataclass(frozen=True)
class Clips:
    """Generated videos of a draw: their store, and decisions about them by `Arm.keep`."""

    store: str
    filtered: str
    at_random: tuple[str, ...]

    def decisions(self, keep: str, seed: int) -> str:
        """Returns the path of the decisions of an arm; empty to keep all."""
        if keep == "random":
            return self.at_random[seed % len(self.at_random)]
        return self.filtered if keep == "filter" else ""


@dataclasses.dataclass(frozen=True)
class Draw:
    """The data of a draw.

    Attributes:
      store: the store of the real videos.
      annotated: the real videos by split; all numbers of training videos are drawn from these.
      clips: the generated videos by gap, as the grid names it; empty where no arm uses any.
    """

    store: str
    annotated: annotations.Annotations
    clips: Mapping[str, Clips]


def prepare(study: GridStudy, number: int, with_clips: bool) -> Draw:
    """Makes the stores of a draw, or finds them finished.

    Args:
      study: the study; everything is written below its folder.
      number: number of the draw.
      with_clips: whether generated videos are needed.

    Raises:
      UserError: a fault of the videos or the flags.
    """
    (study.folder / "splits").mkdir(parents=True, exist_ok=True)
    if study.footage == "world":
        data = _world(study, number, "1")
        real, annotated = data["real_store"], annotations.load(data["real_videos"])
    else:
        real = _encoded(study, study.videos, study.footage_name, "real")
        normal, abnormal = study.largest
        listed = annotations.load(study.videos)
        annotated = ped2.random_split(listed, abnormal, normal, number)
    clips = {}
    for gap in study.gap_names if with_clips else ():
        if study.clips != "world":
            listed_path = _list_of_clips(study)
            store = _encoded(study, str(listed_path), study.clips_name, "synthetic")
            clips[gap] = _judged(study, store, real, annotated, number, "")
        else:
            world = number
            if study.footage == "videos":
                world = number // 100 * 100 + number % CLIP_SETS
            data = _world(study, world, gap, real)
            clips[gap] = Clips(
                data["synthetic_store"], data["decisions"], tuple(data["random_decisions"])
            )
            if study.footage == "videos":
                # The pipeline judged against the list's own split.
                store = data["synthetic_store"]
                clips[gap] = _judged(study, store, real, annotated, number, gap)
    return Draw(real, annotated, clips)


def _recipe_name(study: GridStudy) -> str:
    return f"{study.snippet_frames}x{study.snippet_stride}"


def _options(study: GridStudy, source: str) -> EncodeOptions:
    stride = study.snippet_stride
    return EncodeOptions(
        source=source,
        snippet_frames=study.snippet_frames,
        # A pipeline takes the default and its value for different settings.
        snippet_stride=None if stride == DEFAULT_STRIDES["motion"] else stride,
    )


def _encoded(study: GridStudy, videos: str, name: str, source: str) -> str:
    """Encodes videos that are the same for every draw; returns their store."""
    path = study.folder / "stores" / f"{name}-{_recipe_name(study)}"
    path.parent.mkdir(exist_ok=True)
    encoding.encode(videos, path, _options(study, source), progress=False)
    return str(path)


def _world(study: GridStudy, number: int, gap: str, real: str = "") -> dict:
    """Runs the pipeline of a draw and gap; returns its paths.

    The draw's footage and its gap 1 are one pipeline; another one for each other gap, or for real
    video, takes its list and store from there.
    """
    name, videos = f"{number:03d}", study.videos if study.footage == "videos" else ""
    if videos:
        name += f"-{study.footage_name}"
    elif gap != "1":
        videos = str(study.folder / "worlds" / name / "footage" / "videos.json")
    name += f"-gap{gap}" if gap != "1" else ""
    rows = _options(study, "real")
    if _recipe_name(study) != "16x4":
        name += f"-{_recipe_name(study)}"
    out = study.folder / "worlds" / name
    # Another study may be making the same world.
    folders.claim(out, "pipeline")
    plan = pipeline.PipelinePlan(
        out=str(out), videos=videos, train_pairs=TRAIN_PAIRS, test_pairs=TEST_PAIRS,
        generated_pairs=GENERATED_PAIRS, data_seed=10 * number, domain_gap=float(gap),
        random_drops=RANDOM_DROPS,
    )  # fmt: skip
    with folders.locked(out / ".study.lock", None):
        if videos and not (out / "real").exists():
            copied = out / ".real.partial"
            shutil.rmtree(copied, ignore_errors=True)  # Of a process that was killed.
            shutil.copytree(real, copied)
            os.replace(copied, out / "real")
        return pipeline.run(pipeline.PipelineSettings(plan=plan, rows=rows))


def _judged(
    study: GridStudy,
    clips: str,
    real: str,
    annotated: annotations.Annotations,
    number: int,
    gap: str,
) -> Clips:
    """Filters generated videos by comparing them with the training videos of a split."""
    generated, compared = Store(clips), Store(real)
    compared.videos = annotated
    evidence = gather(generated, compared)
    decisions = deciding.decide(evidence, deciding.FilterOptions())
    gap = f"-gap{gap}" if gap else ""
    normal, abnormal = study.largest
    name = (
        f"{study.footage_name}-{study.clips_name}-{_recipe_name(study)}{gap}-{number:03d}-"
        f"{normal}+{abnormal}"
    )
    path = study.folder / "splits" / f"{name}.decisions.jsonl"
    save_decisions(path, decisions)
    at_random = []
    for drop in range(RANDOM_DROPS):
        dropped = deciding.random_drop(decisions, evidence.labels, 10 * number + drop)
        at_random.append(str(path.with_name(f"{name}.random-{drop}.jsonl")))
        save_decisions(at_random[-1], dropped)
    return Clips(clips, str(path), tuple(at_random))


def _list_of_clips(study: GridStudy) -> pathlib.Path:
    """Returns the list of --clips; for a folder, one is written beside links to its videos."""
    source = pathlib.Path(study.clips).resolve()
    if not source.is_dir():
        return source
    files = sorted(file for file in source.iterdir() if file.suffix.lower() in _VIDEO_ENDINGS)
    abnormal = set(filter(None, study.abnormal_clips.split(",")))
    names = [file.stem for file in files]
    if unknown := sorted(abnormal - set(names)):
        raise UserError(
            f"--abnormal_clips: expected names of videos in {source}, found {unknown[0]!r}; "
            "correct it"
        )
    if not abnormal or len(abnormal) == len(names):
        raise UserError(
            f"--abnormal_clips: expected some of the {len(names)} videos of {source}, found "
            f"{len(abnormal)}; name the abnormal ones"
        )
    folder = study.folder / "stores" / f"{source.name}-videos"
    folder.mkdir(parents=True, exist_ok=True)
    videos = {}
    for file in files:
        link = folder / file.name
        if not link.is_symlink() or link.readlink() != file:
            link.unlink(missing_ok=True)  # Of a folder of that name elsewhere, or moved.
            link.symlink_to(file)
        videos[f"clip-{file.stem}"] = {
            "file": file.name, "label": int(file.stem in abnormal), "split": "train",
        }  # fmt: skip
    write_json(folder / "videos.json", {"videos": videos})
    return folder / "videos.json"


def subset(draw: Draw, cell: Cell) -> annotations.Annotations:
    """Draws a row's real training videos; test videos stay.

    For a draw and seed a smaller number of a label is a part of every larger one, and the same for
    all arms and detectors.

    Raises:
      UserError: the draw has too few training videos.
    """
    training = set()
    for label, count, name in ((0, cell.normal, "normal"), (1, cell.abnormal, "abnormal")):
        ids = sorted(v.id for v in draw.annotated.in_split("train") if v.label == label)
        if len(ids) < count:
            raise UserError(
                f"--counts: expected at most the {len(ids)} {name} training videos of a draw, "
                f"found {count}; lower it"
            )
        order = np.random.default_rng([cell.draw, cell.seed, label, 7]).permutation(ids)
        training.update(order[:count].tolist())
    videos = {
        video_id: video
        for video_id, video in draw.annotated.videos.items()
        if video.split != "train" or video_id in training
    }
    return annotations.Annotations(videos, draw.annotated.path)
