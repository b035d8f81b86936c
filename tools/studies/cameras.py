"""Videos as other cameras would have taken them, and as other files keep them; their stores.

The videos of a list are decoded, changed and written again. Two changes stand for another camera:
`zoomed` sees the middle of the picture, where everything is larger and faster, and `night` is dark
and noisy. The others are re-encodings at a quality of x264's, which look alike to people.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np

from generation.encode import encoding
from generation.encode.recipe import EncodeOptions
from generation.media import reading, writing
from generation.videos import world_backend
from gvvad_jax.command import UserError, option
from gvvad_jax.store import annotations
from gvvad_jax.store.files import write_json
from tools.studies import ped2, runs

ORIGINAL = "original"
# Pairs of a normal and an abnormal video of the world.
WORLD_PAIRS = 30

# x264's quality where the change itself is to be seen, and nothing else.
_FINE = 10
_ZOOM = 0.6
_NIGHT_LIGHT, _NIGHT_NOISE = 0.35, 6.0

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _zoomed(image_HxWx3: np.ndarray, _: np.random.Generator) -> np.ndarray:
    height, width = image_HxWx3.shape[:2]
    top, left = round(height * (1 - _ZOOM) / 2), round(width * (1 - _ZOOM) / 2)
    cut = image_HxWx3[top : height - top, left : width - left]
    return cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR)


def _night(image_HxWx3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise_HxW = rng.normal(scale=_NIGHT_NOISE, size=image_HxWx3.shape[:2])
    dark = image_HxWx3 * _NIGHT_LIGHT + noise_HxW[..., None]
    return np.clip(np.round(dark), 0, 255).astype(np.uint8)


def _same(image_HxWx3: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return image_HxWx3


# By name: x264's quality and the change.
COPIES: Mapping[str, tuple[int, Change]] = {
    "crf18": (18, _same),
    "crf23": (23, _same),
    "crf28": (28, _same),
    "zoomed": (_FINE, _zoomed),
    "night": (_FINE, _night),
}
COMPRESSED = ("crf18", "crf23", "crf28")
CAMERAS = ("zoomed", "night")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraStudy(runs.Study):
    """The study of cameras and compression; each field is a flag."""

    footage: str = option(
        "world",
        "Real videos of the study: the built-in world's, or random splits of --videos.",
        choices=("world", "videos"),
    )
    other: str = option(
        "", "Folder of the study of the other footage, whose videos are targets too (cameras)."
    )
    abnormal_train: int = option(6, "Abnormal training videos of a split of --videos.", low=1)
    normal_train: int = option(4, "Normal training videos of a split of --videos.", low=1)
    snippet_frames: int = option(12, "Frames of a snippet, for the motion encoder.", low=1)
    snippet_stride: int = option(3, "Frames between the starts of two snippets.", low=1)

    def __post_init__(self):
        super().__post_init__()
        if (self.footage == "videos" or self.other) and not self.videos:
            raise UserError("--videos: expected a videos.json for the study, found none; name one")

    def others(self) -> dict[str, "CameraStudy"]:
        """Returns the study of the other footage, by name, where --other names its folder."""
        if not self.other:
            return {}
        footage = "videos" if self.footage == "world" else "world"
        return {footage: dataclasses.replace(self, footage=footage, out=self.other, other="")}


def originals(study: CameraStudy) -> annotations.Annotations:
    """Returns the videos of a study, the world's rendered where there are none yet."""
    if study.footage == "videos":
        return annotations.load(study.videos)
    path = study.folder / "footage" / "videos.json"
    if not path.exists():
        world_backend.render_footage(path.parent, WORLD_PAIRS, 0, 0, progress=False)
    return annotations.load(path)


def store_of(study: CameraStudy, name: str) -> str:
    """Returns the store of the originals, or of their copies by a key of COPIES."""
    videos = originals(study)
    listed = videos.path if name == ORIGINAL else str(_copied(study, videos, name))
    path = study.folder / "stores" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    options = EncodeOptions(
        snippet_frames=study.snippet_frames, snippet_stride=study.snippet_stride
    )
    encoding.encode(listed, path, options, progress=False)
    return str(path)


def _copied(study: CameraStudy, videos: annotations.Annotations, name: str) -> pathlib.Path:
    """Writes a changed copy of every video; returns the path of their videos.json."""
    crf, change = COPIES[name]
    out = study.folder / "copies" / name
    out.mkdir(parents=True, exist_ok=True)
    listed = {}
    for number, video in enumerate(videos.videos.values()):
        target = out / f"{name}-{video.id}.mp4"
        if not target.exists():
            read = reading.read(videos.resolve(video))
            rng = np.random.default_rng([number, 11])
            images = (change(image_HxWx3, rng) for image_HxWx3 in read.frames_TxHxWx3)
            writing.write_video(target, images, fps=video.fps or read.fps, crf=crf)
        listed[target.stem] = videos.to_json()["videos"][video.id] | {"file": target.name}
    write_json(out / "videos.json", {"videos": listed})
    return out / "videos.json"


def split(study: CameraStudy, seed: int) -> dict[str, str]:
    """Draws the split of a seed: train; validation, half of the other normal videos; or test.

    Returns:
      The split by id of an original.
    """
    counts = (study.abnormal_train, study.normal_train)
    if study.footage == "world":
        counts = (WORLD_PAIRS // 2, WORLD_PAIRS // 2)
    drawn = ped2.random_split(originals(study), *counts, seed)
    splits = {i: video.split for i, video in drawn.videos.items()}
    normal = [i for i, video in drawn.videos.items() if video.split == "test" and not video.label]
    held = np.random.default_rng([seed, 12]).permutation(sorted(normal))[: len(normal) // 2]
    return splits | dict.fromkeys(held.tolist(), "validation")


def annotated(
    study: CameraStudy, names: Sequence[str], splits: Mapping[str, str]
) -> annotations.Annotations:
    """Returns the videos of several stores, training videos of each and all others of the first."""
    videos = {}
    for name in names:
        prefix = "" if name == ORIGINAL else f"{name}-"
        for i, video in originals(study).videos.items():
            if name == names[0] or splits[i] == "train":
                each = dataclasses.replace(video, id=prefix + i, split=splits[i])
                videos[each.id] = each
    return annotations.Annotations(videos, originals(study).path)
