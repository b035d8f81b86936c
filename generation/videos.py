"""Descriptions -> videos, with the built-in world or any diffusers text-to-video pipeline.

    python -m generation.videos --prompts=prompts.jsonl --backend=world --out=DIR
    python -m generation.videos --prompts=prompts.jsonl --backend=diffusers \\
        --model=THUDM/CogVideoX-2b --dtype=float16 --out=DIR

writes DIR/videos/<id>.mp4 and, when all are there, DIR/videos.json. Killed anywhere, the same
command goes on where it stopped. Ranks (RANK, WORLD_SIZE) share the work. A clip whose generation
fails is named in DIR/errors.json, the others go on, and the same command tries it again.
"""

import dataclasses
import hashlib
import inspect
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tqdm
from absl import flags

from generation import prompts, video_io, world
from generation.prompts import Description
from generation.world_scenes import stream
from gvvad_jax.annotations import read_json
from gvvad_jax.store import UserError, run_command, write_atomically

BLACK_LEVEL = 8  # grey levels; a clip that never gets brighter shows nothing


@dataclasses.dataclass(frozen=True)
class Clip:
    """What a backend makes of a description.

    Attributes:
      frames_TxHxWx3: RGB uint8.
      fps: frames per second.
      crf: x264 quality to write it with.
      abnormal_frames: [start, end) in frames where they are known exactly, else None.
      truth: what only checks may know, e.g. planted defects; {} where there is none.
    """

    frames_TxHxWx3: np.ndarray
    fps: float
    crf: int = 20
    abnormal_frames: list[tuple[int, int]] | None = None
    truth: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Backend(Protocol):
    """Makes clips; `settings` is everything, beside the description, that a clip depends on."""

    settings: Mapping[str, Any]

    def __call__(self, description: Description) -> Clip: ...


class WorldBackend:
    """The built-in renderer; see generation/world.py.

    Args:
      domain: footage or generated.
      seed: of the whole set.
      domain_gap: of generated clips, 0 looks like footage.
      defect_share: of generated clips that are broken; footage never is.
      num_frames, fps, size: the domain's unless told.
    """

    def __init__(
        self,
        domain: str = "generated",
        *,
        seed: int = 0,
        domain_gap: float = 1.0,
        defect_share: float = world.DEFECT_SHARE,
        num_frames: int | None = None,
        fps: float | None = None,
        size: tuple[int, int] | None = None,
    ):
        self.defect_share = defect_share if domain == "generated" else 0.0
        self.options = {
            "domain": domain,
            "seed": seed,
            "domain_gap": domain_gap,
            "num_frames": num_frames,
            "fps": fps,
            "size": size,
        }
        self.settings = self.options | {
            "backend": "world",
            "world_version": world.WORLD_VERSION,
            "defect_share": self.defect_share,
        }

    def __call__(self, description: Description) -> Clip:
        seed = self.options["seed"]
        defect = world.draw_defect(description, seed, self.defect_share)
        rendering = world.render(description, defect=defect, **self.options)
        footage = self.options["domain"] == "footage"
        truth = {"defect": rendering.defect, "shown_frames": rendering.abnormal_frames}
        return Clip(
            rendering.frames_TxHxWx3,
            rendering.fps,
            world.CRF[self.options["domain"]],
            # A generator doesn't tell when its event happens: that is for the truth file.
            rendering.abnormal_frames if footage else None,
            truth,
        )


class DiffusersBackend:
    """Any text-to-video pipeline of diffusers, CogVideoX by default.

    Arguments that a pipeline doesn't know are left out, and so are those that are None.

    Args:
      model: Hub id or local folder.
      dtype: float16 for CogVideoX-2b, bfloat16 for 5b and 1.5, float32 on a CPU.
      device: cuda, cpu ...; cuda where there is one unless told.
      seed: of the whole set, beside each description's own.
      fps: written into the file; the pipeline itself knows no time.
      num_frames, height, width, steps, guidance: the pipeline's unless told.

    Raises:
      UserError: the model can't be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "bfloat16",
        device: str | None = None,
        seed: int = 0,
        fps: float | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ):
        import diffusers
        import torch

        self.seed, self.fps, self.num_frames = seed, fps or 8.0, num_frames
        self.call = {
            "num_frames": num_frames,
            "height": height,
            "width": width,
            "num_inference_steps": steps,
            "guidance_scale": guidance,
        }
        making = {"backend": "diffusers", "model": model, "dtype": dtype, "seed": seed}
        self.settings = self.call | making | {"fps": self.fps}
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        weights = {"dtype": getattr(torch, dtype)}
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(model, **weights)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--model: expected a diffusers pipeline, found {model!r} ({error}); give a Hub "
                "id that can be reached or a local folder"
            ) from error
        self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, description: Description) -> Clip:
        import torch

        known = inspect.signature(self.pipeline.__call__).parameters
        # A generator of its own on the CPU: pixels depend neither on the device nor on the order.
        seed = int(stream(self.seed, description.seed).integers(2**31))
        arguments = self.call | {
            "prompt": description.description,
            "generator": torch.Generator("cpu").manual_seed(seed),
            "output_type": "np",
        }
        arguments = {key: arguments[key] for key in arguments if arguments[key] is not None}
        with np.errstate(invalid="ignore"):
            output = self.pipeline(**{key: arguments[key] for key in arguments if key in known})
        frames_TxHxWx3 = np.asarray(output.frames[0])
        if not np.isfinite(frames_TxHxWx3).all():
            raise ValueError("non-finite pixels; try another --dtype")
        frames_TxHxWx3 = np.round(frames_TxHxWx3 * 255).clip(0, 255).astype(np.uint8)
        if self.num_frames and len(frames_TxHxWx3) != self.num_frames:
            raise ValueError(
                f"expected {self.num_frames} frames, found {len(frames_TxHxWx3)}; "
                "CogVideoX gives 8N+1 frames"
            )
        return Clip(frames_TxHxWx3, self.fps)


def generate(
    descriptions: Sequence[Description],
    backend: Backend,
    out: str | os.PathLike,
    *,
    split: str | Mapping[str, str] = "train",
    progress: bool = True,
) -> pathlib.Path:
    """Makes a video of each description, resuming what is there, and lists them.

    Args:
      descriptions: with different ids.
      backend: makes the clips.
      out: folder; gets videos/, videos.json, clips/ (a record a clip, by which to resume),
        errors.json and, from the world, world_truth.json, which only checks may read.
      split: for videos.json, one for all or by id.
      progress: a bar on standard error.

    Returns:
      The path of videos.json. It exists once every rank has made its share.

    Raises:
      UserError: `out` holds clips made with other settings, or no clip could be made at all.
    """
    out = pathlib.Path(out)
    for folder in ("videos", "clips"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine = descriptions[rank::world_size]
    for description in tqdm.tqdm(mine, "videos", disable=not progress, unit="clip"):
        if not _is_done(out, description, backend):
            _make(out, description, backend)
    _finish(out, descriptions, split)
    return out / "videos.json"


def _fingerprint(description: Description, backend: Backend) -> str:
    content = json.dumps([description.to_json(), dict(backend.settings)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _is_done(out: pathlib.Path, description: Description, backend: Backend) -> bool:
    record_path = out / "clips" / f"{description.id}.json"
    if not record_path.exists():
        return False
    record = read_json(record_path)
    if record["fingerprint"] != _fingerprint(description, backend):
        raise UserError(
            f"{out}: expected {description.id!r} to be made with these settings, found another "
            "making; give another --out or remove the folder"
        )
    return record["error"] is None and (out / "videos" / f"{description.id}.mp4").exists()


def _make(out: pathlib.Path, description: Description, backend: Backend) -> None:
    """One clip and its record; the record comes last, so that a clip without one is made again."""
    record = {
        "fingerprint": _fingerprint(description, backend),
        "error": None,
        "label": description.label,
        "class": description.cls if description.label else "Normal",
    }
    try:
        clip = backend(description)
        if isinstance(backend, DiffusersBackend) and clip.frames_TxHxWx3.max() < BLACK_LEVEL:
            raise ValueError("a black clip; try another --dtype")
        path = out / "videos" / f"{description.id}.mp4"
        video_io.write(path, clip.frames_TxHxWx3, fps=clip.fps, crf=clip.crf)
        record |= {
            "num_frames": len(clip.frames_TxHxWx3),
            "fps": clip.fps,
            "abnormal_frames": clip.abnormal_frames,
            "truth": dict(clip.truth),
        }
    except Exception as error:  # whatever a model throws, the other clips go on
        record["error"] = f"{type(error).__name__}: {error}"
        print(f"{description.id}: {record['error']}", file=sys.stderr)
    write_atomically(out / "clips" / f"{description.id}.json", _json(record))


def _finish(out: pathlib.Path, descriptions: Sequence[Description], split) -> None:
    """Writes videos.json once all clips have their records; any rank may be the last."""
    paths = {name: out / "clips" / f"{name}.json" for name in (d.id for d in descriptions)}
    if not all(path.exists() for path in paths.values()):
        return
    records = {name: read_json(path) for name, path in paths.items()}
    errors = {name: record["error"] for name, record in records.items() if record["error"]}
    write_atomically(out / "errors.json", _json(errors))
    if len(errors) == len(records):
        name, error = next(iter(errors.items()))
        raise UserError(f"{out}: expected clips, all of them failed; {name!r} with {error}")
    videos, truth = {}, {}
    for name, record in records.items():
        if name in errors:
            continue
        videos[name] = {
            "file": f"videos/{name}.mp4",
            "split": split if isinstance(split, str) else split[name],
            **{key: record[key] for key in ("label", "class", "fps", "num_frames")},
        }
        if record["abnormal_frames"] is not None:
            videos[name]["abnormal_frames"] = record["abnormal_frames"]
        if record["truth"]:
            truth[name] = record["truth"]
    if truth:
        write_atomically(out / "world_truth.json", _json(truth))
    write_atomically(out / "videos.json", _json({"videos": videos}))


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def render_footage(
    out: str | os.PathLike,
    num_train_pairs: int,
    num_test_pairs: int,
    seed: int,
    *,
    progress: bool = True,
) -> pathlib.Path:
    """The world's stand-in for real data: twins of footage with splits and exact intervals.

    Classes take turns, so both splits hold them evenly; no place is in both.

    Args:
      out: folder, as for `generate`.
      num_train_pairs, num_test_pairs: pairs of a normal and an abnormal video.
      seed: of everything.
      progress: a bar on standard error.

    Returns:
      The path of videos.json.
    """
    twins = prompts.write_grammar(num_train_pairs + num_test_pairs, seed)
    descriptions = [
        dataclasses.replace(twin, id=f"footage-{twin.id}", twin=f"footage-{twin.twin}")
        for twin in twins
    ]
    split = {
        description.id: "train" if index < 2 * num_train_pairs else "test"
        for index, description in enumerate(descriptions)
    }
    backend = WorldBackend("footage", seed=seed)
    return generate(descriptions, backend, out, split=split, progress=progress)


def main(_) -> None:
    if not _PROMPTS.value or not _OUT.value:
        raise UserError(
            "--prompts, --out: expected both a prompts.jsonl and a folder; write the former "
            "with python -m generation.prompts"
        )
    shared = {"seed": _SEED.value, "fps": _FPS.value, "num_frames": _NUM_FRAMES.value}
    descriptions = prompts.load(_PROMPTS.value)
    if _BACKEND.value == "world":
        given = {"domain_gap": _DOMAIN_GAP.value, "defect_share": _DEFECT_SHARE.value}
        size = (_HEIGHT.value, _WIDTH.value) if _HEIGHT.value and _WIDTH.value else None
        backend = WorldBackend(_DOMAIN.value, size=size, **given, **shared)
    else:
        backend = DiffusersBackend(
            _MODEL.value,
            dtype=_DTYPE.value,
            device=_DEVICE.value,
            height=_HEIGHT.value,
            width=_WIDTH.value,
            steps=_STEPS.value,
            guidance=_GUIDANCE.value,
            **shared,
        )
    path = generate(descriptions, backend, _OUT.value, split=_SPLIT.value)
    errors = path.with_name("errors.json")
    summary = {"videos": str(path), "complete": path.exists()}
    if errors.exists():
        summary["errors"] = read_json(errors)
    print(json.dumps(summary))


if __name__ == "__main__":
    _PROMPTS = flags.DEFINE_string("prompts", None, "Descriptions, from generation.prompts.")
    _BACKEND = flags.DEFINE_enum("backend", "world", ["world", "diffusers"], "Who makes clips.")
    _OUT = flags.DEFINE_string("out", None, "Folder to write.")
    _SPLIT = flags.DEFINE_enum(
        "split", "train", ["train", "validation", "test"], "Split of all clips in videos.json."
    )
    _SEED = flags.DEFINE_integer("seed", 0, "Of the whole set.", lower_bound=0)
    _FPS = flags.DEFINE_float("fps", None, "Frames per second of the clips.", lower_bound=1)
    _NUM_FRAMES = flags.DEFINE_integer("num_frames", None, "Frames a clip.", lower_bound=1)
    _HEIGHT = flags.DEFINE_integer("height", None, "Pixels.", lower_bound=16)
    _WIDTH = flags.DEFINE_integer("width", None, "Pixels.", lower_bound=16)
    _DOMAIN = flags.DEFINE_enum("domain", "generated", world.DOMAINS, "world: which look.")
    _DOMAIN_GAP = flags.DEFINE_float("domain_gap", 1.0, "world: 0 is footage.", lower_bound=0)
    _DEFECT_SHARE = flags.DEFINE_float(
        "defect_share", world.DEFECT_SHARE, "world: share of broken clips.", 0, 1
    )
    _MODEL = flags.DEFINE_string("model", "THUDM/CogVideoX-2b", "diffusers: Hub id or folder.")
    _DTYPE = flags.DEFINE_enum(
        "dtype", "bfloat16", ["float16", "bfloat16", "float32"], "diffusers: of the weights."
    )
    _DEVICE = flags.DEFINE_string("device", None, "diffusers: cuda where there is one.")
    _STEPS = flags.DEFINE_integer("steps", None, "diffusers: denoising steps.", lower_bound=1)
    _GUIDANCE = flags.DEFINE_float("guidance", None, "diffusers: guidance scale.")
    run_command(main, usage=__doc__)
