"""Scores videos with a trained detector.

    python -m gvvad_jax.score --workdir=W --store=STORE --out=S.npz
    python -m gvvad_jax.score --workdir=W --visual=X.npy [--text=Y.npy] --out=S.npz

S.npz holds one array [frames] a video id, its `fps/<id>`, and `snippets/<id>` [T] with
`times/<id>` [T, 2] in seconds. None of them is calibrated; `video/<id>` is: the chance that the
video is abnormal, if the run had validation videos of both labels. Prints one JSON object
{out, videos, temperature, drift}, with `reason` where there is no temperature; `drift` has the
videos whose features leave the range that the detector knows, which one line says too.
"""

import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from gvvad_jax.command import UserError, refuse_flags, run_command
from gvvad_jax.config import CHECKPOINTS
from gvvad_jax.evaluation import SNIPPET_PREFIXES, VIDEO_PREFIX
from gvvad_jax.ground_truth import report_alignment, report_contradictions
from gvvad_jax.measures import NOT_CALIBRATED
from gvvad_jax.splits import members_of
from gvvad_jax.store import alignment, folders
from gvvad_jax.store.files import load_array, write_arrays
from gvvad_jax.store.reader import Store

if TYPE_CHECKING:
    from gvvad_jax.scoring import Model


def main(_: Sequence[str]) -> None:
    values = flags.FLAGS
    for name in ("workdir", "out"):
        if not values[name].value:
            raise UserError(f"--{name}: expected a path, found none; give --workdir and --out")
    if bool(values.store) == bool(values.visual):
        found = "both" if values.store else "neither"
        raise UserError(
            f"expected either --store or --visual, found {found}; give a feature store, or an .npy "
            "of one video"
        )
    if values.store:
        refuse_flags("--store", ("text", "fps"))
    _require_writable(pathlib.Path(values.out))
    from gvvad_jax import adaptation, drift, scoring

    model = scoring.load(values.workdir, values.checkpoint)
    if values.adaptation:
        model = adaptation.apply(model, values.adaptation)
    if values.store:
        store = Store(values.store, verify_rows=values.verify_rows)
        arrays = _score_store(model, store)
        shifts = {i: drift.shift(model, store.visual(i)) for i in store}
    else:
        arrays = _score_files(model)
        visual = load_array(values.visual, "an .npy array of features", mmap_mode="r")
        shifts = {pathlib.Path(values.visual).stem: drift.shift(model, visual)}
    write_arrays(values.out, arrays)
    if said := drift.describe(model, shifts):
        print(said, file=sys.stderr)
    videos = sum(name.startswith("snippets/") for name in arrays)
    answer: dict[str, Any] = {"out": values.out, "videos": videos, "temperature": None}
    answer["drift"] = drift.beyond(model, shifts)
    if calibrated := model.calibration:
        answer["temperature"] = calibrated.temperature
    if answer["temperature"] is None:
        reason = calibrated.temperature_reason if calibrated else NOT_CALIBRATED
        answer["reason"] = f"no video/ID: {reason}"
    print(json.dumps(answer))


def _require_writable(out: pathlib.Path) -> None:
    """Raises UserError before hours of scoring rather than after them."""
    if out.is_dir():
        raise UserError(f"--out: expected a file, found the folder {out}; name one in it")
    # Every .npz is a zip archive.
    folders.require_own_file(out, b"PK")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Permissions alone don't tell on every file system.
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(
            f"--out: expected a file that can be written, found {out} ({error.strerror}); give "
            "another"
        ) from error


def _score_store(model: "Model", store: Store) -> dict[str, np.ndarray]:
    for video_id in store:
        if video_id.startswith(SNIPPET_PREFIXES):
            raise UserError(
                f"{store.path}: video {video_id!r}: expected an id that doesn't begin with "
                f"{' or '.join(SNIPPET_PREFIXES)}, as other arrays of --out do; encode it with "
                "another"
            )
        if (taken := VIDEO_PREFIX + video_id) in store.rows:
            raise UserError(
                f"{store.path}: video {taken!r}: expected another id, because --out has the video "
                f"score of {video_id!r} there; encode it with another"
            )
    arrays: dict[str, np.ndarray] = {}
    members = members_of(store, None)
    report_alignment(members)
    report_contradictions(members)
    snippets = model.score(store)
    for video_id, scores_T in snippets.items():
        row = store.rows[video_id]
        arrays |= _arrays(video_id, scores_T, store.times(video_id), row.num_frames, row.fps)
    return arrays | _video_arrays(model, snippets)


def _score_files(model: "Model") -> dict[str, np.ndarray]:
    from gvvad_jax import checked_features

    values, manifest = flags.FLAGS, model.manifest
    visual_TxNxD = checked_features.require_visual(
        load_array(values.visual, "an .npy array of features"), manifest, values.visual
    )
    text_SxE = load_array(values.text, "an .npy array of features") if values.text else None
    if model.config.uses_text:
        text_SxE = checked_features.require_text(
            text_SxE, len(visual_TxNxD), manifest, values.text or "--text"
        )
    try:
        times_Tx2, num_frames = alignment.row_spans(
            len(visual_TxNxD), values.fps, manifest.snippet, manifest.fps_policy
        )
    except UserError as error:
        raise UserError(f"{values.visual}: {error}") from error
    video_id = pathlib.Path(values.visual).stem
    snippets = model.score({video_id: (visual_TxNxD, text_SxE)})
    arrays = _arrays(video_id, snippets[video_id], times_Tx2, num_frames, values.fps)
    return arrays | _video_arrays(model, snippets)


def _arrays(
    video_id: str, scores_T: np.ndarray, times_Tx2: np.ndarray, num_frames: int, fps: float
) -> dict[str, np.ndarray]:
    """The arrays of S.npz for one video."""
    return {
        video_id: alignment.frame_scores(scores_T, times_Tx2, num_frames, fps),
        f"snippets/{video_id}": scores_T,
        f"times/{video_id}": times_Tx2,
        f"fps/{video_id}": np.array(fps, np.float64),
    }


def _video_arrays(model: "Model", snippets: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The calibrated score of each video; empty where the run has no temperature."""
    chances = model.calibrated_scores(snippets) or {}
    return {VIDEO_PREFIX + i: np.array(chance, np.float64) for i, chance in chances.items()}


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "Run folder with the trained detector. Required.")
    flags.DEFINE_string("store", "", "Feature store whose videos are scored.")
    flags.DEFINE_bool(
        "verify_rows",
        True,
        "Compare each video's rows with their digest when they are first read; at most 0.2 "
        "seconds per 100 MB.",
    )
    flags.DEFINE_string(
        "visual", "", "Visual features of one video instead, .npy [T, dim] or [T, N, dim]."
    )
    flags.DEFINE_string("text", "", "Text features of the same video, .npy [T, text_dim].")
    flags.DEFINE_float(
        "fps", 25.0, "Frames per second of the video given with --visual.", lower_bound=1
    )
    flags.DEFINE_string("out", "", "Path of the .npz file to write the scores to. Required.")
    flags.DEFINE_enum(
        "checkpoint",
        "last",
        CHECKPOINTS,
        "Checkpoint of the run to score with.",
    )
    flags.DEFINE_string(
        "adaptation",
        "",
        "Adaptation to a camera, by gvvad calibrate (default: the run as it was trained).",
    )
    run_command(main, usage=__doc__)
