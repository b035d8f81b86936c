"""What tools.export runs: converting, comparing, and putting the file in place."""

import dataclasses
import importlib.metadata
import os
import pathlib
import secrets
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from gvvad_jax.command import UserError, check, option
from gvvad_jax.config import CHECKPOINTS
from gvvad_jax.store import digests, folders
from gvvad_jax.store.files import write_atomically, write_json

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model

FORMATS = ("stablehlo", "onnx")
TOLERANCE = 1e-5
# Share of the compared scores that should be neither 0 nor 1.
LEAST_BETWEEN = 0.05
# Shorter and longer than what detectors compute in another form: the non-local block's channels,
# UR-DMU's blocks of 128 and its whole form of up to 512 snippets.
LENGTHS = (1, 2, 3, 31, 32, 150, 600)
_LIBRARIES = {"stablehlo": ("jax", "jaxlib", "flatbuffers"), "onnx": ("onnx", "onnxruntime")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export to where; each field is a flag of the command."""

    workdir: str = option(
        "", "Run folder, folder of save_pretrained, or hf:USER/NAME of the detector. Required."
    )
    checkpoint: str = option("last", "Checkpoint of the run to export.", choices=CHECKPOINTS)
    format: str = option("onnx", "Format of the file.", choices=FORMATS)
    out: str = option("", "Path of the file to write; its description is OUT.json. Required.")

    def __post_init__(self) -> None:
        check(self)
        for name in ("workdir", "out"):
            if not getattr(self, name):
                raise UserError(f"--{name}: expected a path, found none; give one")


def export(options: ExportOptions) -> dict[str, Any]:
    """Writes the file and its description, and returns the latter.

    Raises:
      UserError: no such detector, one that the format can't hold, or a file that doesn't score as
        the detector does; nothing is written then.
    """
    out = pathlib.Path(options.out)
    description = out.with_name(f"{out.name}.json")
    if out.is_dir():
        raise UserError(f"--out: expected a file, found the folder {out}; name one in it")
    if out.exists() and not description.exists():
        raise UserError(
            f"--out={out}: expected an absent file or one that this command wrote, found a file "
            "without its description; give another --out"
        )
    folders.require_own_file(description, b'{\n "format": "')
    from gvvad_jax import scoring
    from tools.exporting import contract

    model = scoring.load(options.workdir, options.checkpoint)
    notes = contract.metadata(model, options.workdir, options.format)
    if options.format == "onnx":
        from tools.exporting import onnx_detectors

        content, run = onnx_detectors.convert(model, notes), onnx_detectors.run
    else:
        from tools.exporting import stablehlo

        content, run = stablehlo.convert(model), stablehlo.run
        notes["platforms"] = list(stablehlo.PLATFORMS)
    compared = compare(model, content, run)
    notes |= {
        "compared": compared,
        "sha256": digests.of_bytes(content),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("gvvad-jax", *_LIBRARIES[options.format])
        },
    }
    _put(out, content, description, notes)
    return notes | {"out": options.out}


def compare(model: "Model", content: bytes, run: Any) -> dict[str, Any]:
    """Compares a file's scores with the detector's; raises UserError where they differ."""
    from tools.exporting import contract

    largest, scores = 0.0, []
    for video in contract.random_videos(model, LENGTHS):
        features = tuple(video.values())
        expected_T = model.score({"video": features if len(features) > 1 else features[0]})["video"]
        scores_T = run(content, video)
        if scores_T.shape != expected_T.shape:
            raise UserError(
                f"--workdir: expected exported scores of shape {list(expected_T.shape)}, found "
                f"{list(scores_T.shape)}; nothing was written: use another --format"
            )
        difference = float(np.max(np.abs(scores_T - expected_T)))
        if not difference <= TOLERANCE:
            raise UserError(
                f"--workdir: expected exported scores within {TOLERANCE:g} of the detector's, "
                f"found a difference of {difference:.2g} in a video of {len(scores_T)} snippets; "
                "nothing was written: use another --format"
            )
        largest = max(largest, difference)
        scores.append(expected_T)
    scores_M = np.concatenate(scores)
    between = float(np.mean((scores_M > 0.001) & (scores_M < 0.999)))
    if between < LEAST_BETWEEN:
        print(
            f"--workdir: {between:.1%} of the detector's scores of random features lie between "
            "0.001 and 0.999, so that the comparison says little: compare on features of yours too",
            file=sys.stderr,
        )
    return {
        "lengths": list(LENGTHS),
        "largest_difference": largest,
        "tolerance": TOLERANCE,
        "scores_between_0.001_and_0.999": between,
    }


def _put(
    out: pathlib.Path, content: bytes, description: pathlib.Path, notes: dict[str, Any]
) -> None:
    """Writes both files; the old ones stay until the new ones are on disk."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    try:
        write_atomically(staged, content)
        write_json(description, notes)
        os.replace(staged, out)
    finally:
        staged.unlink(missing_ok=True)
