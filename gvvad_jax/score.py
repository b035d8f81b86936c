"""Scores videos with a trained detector.

    python -m gvvad_jax.score --workdir=W --store=STORE --out=S.npz
    python -m gvvad_jax.score --workdir=W --visual=X.npy [--text=Y.npy] --out=S.npz

S.npz holds one array [frames] a video id, and `snippets/<id>` [T] with `times/<id>` [T, 2] in
seconds. Prints one JSON object.
"""

import json
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
from absl import flags

from gvvad_jax import scoring
from gvvad_jax.command import UserError, refuse_flags, run_command
from gvvad_jax.store import alignment
from gvvad_jax.store.files import load_array, write_arrays
from gvvad_jax.store.reader import Store

# Before a video's id: its snippets' scores and times.
DERIVED = ("snippets/", "times/")


def main(_: Sequence[str]) -> None:
    values = flags.FLAGS
    for name in ("workdir", "out"):
        if not values[name].value:
            raise UserError(f"--{name}: expected a path, found none")
    if bool(values.store) == bool(values.visual):
        raise UserError("expected either --store or --visual, found both or neither")
    if values.store:
        refuse_flags("--store", ("text", "fps"))
    _require_writable(pathlib.Path(values.out))
    model = scoring.load(values.workdir, values.checkpoint)
    arrays = _of_store(model, values.store) if values.store else _of_files(model)
    write_arrays(values.out, arrays)
    ids = [name for name in arrays if not name.startswith(DERIVED)]
    print(json.dumps({"out": values.out, "videos": len(ids)}))


def _require_writable(out: pathlib.Path) -> None:
    """Raises UserError before hours of scoring rather than after them."""
    if out.is_dir():
        raise UserError(f"--out: expected a file, found the folder {out}; name one in it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # On some file systems only trying tells.
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(
            f"--out: expected a file that can be written, found {out} ({error.strerror}); give "
            "another"
        ) from error


def _of_store(model: scoring.Model, path: str) -> dict[str, np.ndarray]:
    opened = Store(path)
    model.require(opened.manifest, path)
    for video_id in opened.rows:
        if video_id.startswith(DERIVED):
            raise UserError(
                f"{path}: video {video_id!r}: expected an id that doesn't begin with "
                f"{' or '.join(DERIVED)}, as other arrays of --out do; encode it with another"
            )
    snippets = model.scores({i: (opened.visual(i), opened.text(i)) for i in opened.rows})
    scoring.require_finite(snippets, path)
    arrays = {}
    for video_id, scores_T in snippets.items():
        row, times_Tx2 = opened.rows[video_id], opened.times(video_id)
        arrays |= {
            video_id: alignment.frame_scores(scores_T, times_Tx2, row.num_frames, row.fps),
            f"snippets/{video_id}": scores_T,
            f"times/{video_id}": times_Tx2,
        }
    return arrays


def _of_files(model: scoring.Model) -> dict[str, np.ndarray]:
    values, snippet = flags.FLAGS, model.manifest.snippet
    visual_TxNxD = _read_features(values.visual)
    crops = model.manifest.crops["count"]
    if visual_TxNxD.ndim == 2:
        visual_TxNxD = visual_TxNxD[:, None]
    if (
        visual_TxNxD.ndim != 3
        or not visual_TxNxD.size
        or visual_TxNxD.shape[-1] != model.manifest.dim
    ):
        raise UserError(
            f"{values.visual}: expected an array [T, {model.manifest.dim}] or [T, crops, "
            f"{model.manifest.dim}], found {list(visual_TxNxD.shape)}; encode with "
            f"{model.manifest.encoder['id']}"
        )
    if crops not in ("unknown", visual_TxNxD.shape[1]):
        raise UserError(
            f"{values.visual}: expected [T, {crops}, {model.manifest.dim}], {crops} crops as in "
            f"training, found {list(visual_TxNxD.shape)}; where crops come first, transpose to "
            "[T, crops, dim]"
        )
    text_TxE = _read_features(values.text) if values.text else None
    if model.config.uses_text:
        _require_text(text_TxE, len(visual_TxNxD), model.manifest.text["dim"])
    name = pathlib.Path(values.visual).stem
    scores = model.scores({name: (visual_TxNxD, text_TxE)})
    scoring.require_finite(scores, values.visual)
    scores_T = scores[name]
    num_frames = (len(scores_T) - 1) * snippet["stride"] + snippet["frames"]
    fps = values.fps
    times_Tx2 = alignment.snippet_spans(num_frames, snippet["frames"], snippet["stride"]) / fps
    frames = alignment.frame_scores(scores_T, times_Tx2, num_frames, fps)
    return {name: frames, f"snippets/{name}": scores_T, f"times/{name}": times_Tx2}


def _require_text(text_SxE: np.ndarray | None, length: int, dim: int) -> None:
    """Text of at least half the video's rows: what is missing is repeated from its end."""
    fits = text_SxE is not None and text_SxE.ndim == 2 and text_SxE.shape[1] == dim
    if not fits or 2 * len(text_SxE) < length:
        found = "none" if text_SxE is None else list(text_SxE.shape)
        raise UserError(
            f"{flags.FLAGS.text or '--text'}: expected an array [{length}, {dim}], a few rows "
            f"more or fewer, found {found}; embed the video's captions with the run's text encoder"
        )


def _read_features(path: str) -> np.ndarray:
    array = load_array(path, "an .npy array of features")
    if not np.isfinite(array).all():
        raise UserError(
            f"{path}: expected finite features, found NaN or infinity; encode the video again"
        )
    return array


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "a run's folder")
    flags.DEFINE_string("store", "", "feature store to score")
    flags.DEFINE_string("visual", "", "one video's features instead, .npy [T, dim] or [T, N, dim]")
    flags.DEFINE_string("text", "", "its text rows, .npy [T, text_dim]")
    flags.DEFINE_float("fps", 25.0, "frames per second of the video, with --visual", lower_bound=1)
    flags.DEFINE_string("out", "", "S.npz")
    flags.DEFINE_enum("checkpoint", "last", ["last", "best_on_validation", "best_on_test"], "which")
    run_command(main, usage=__doc__)
