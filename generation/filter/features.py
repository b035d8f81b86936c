"""Scores of clips by their features in a store, and of these against descriptions and real videos.

Computed from the stores' visual rows, with any encoder:
  realism           1 minus the distance to the nearest real snippets of training videos
  twin_similarity   of the clip and its twin
  near              which clips are nearly the same as which others of their label
With CLIP also, because its pictures and its texts share a space:
  consistency       VBench's temporal consistency, measured on frames while encoding
  text_similarity   cosine of the clip and its own phrase
  pair_margin       that, minus the cosine with its twin's phrase
What can't be computed is named with the reason.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from generation.encoders import pretrained
from gvvad_jax.command import UserError
from gvvad_jax.store.format import Manifest
from gvvad_jax.store.reader import Store, require_agreement

# Nearest real snippets that a snippet is compared with.
NEIGHBOURS = 5
# Snippets of a real video, evenly spread, that stand for it: thousands of videos fit in memory.
SNIPPETS = 16
# Pairs of clips at least so similar are stored, so that a bound above it can be chosen later.
NEAR = 0.97
_CHUNK = 512
TextEncoder = Callable[[Sequence[str]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class FeatureScores:
    """What features say.

    Attributes:
      clips: scores by name, by clip id.
      real: scores of real training videos, by name; realism of each against the others.
      near: cosine by other id, by clip id, of pairs of one label at least NEAR.
      not_judged: why, by score that isn't there or isn't there for every clip.
    """

    clips: Mapping[str, Mapping[str, float]]
    real: Mapping[str, Sequence[float]]
    near: Mapping[str, Mapping[str, float]]
    not_judged: Mapping[str, str]


def feature_scores(
    judged: Store,
    real: Store | None,
    real_ids: Sequence[str] = (),
    *,
    phrases: Mapping[str, str] | None = None,
    text_encoder: TextEncoder | None = None,
) -> FeatureScores:
    """Scores a store's clips by their features.

    Args:
      judged: the clips.
      real: the store of the real videos, of the same encoder; None for no comparison with them.
      real_ids: its videos to compare with: the training videos.
      phrases: short description by clip id, twins' included.
      text_encoder: texts -> float32 [n, dim] in the encoder's space; see `clip_text_encoder`.

    Raises:
      UserError: stores of different making; rows too short of dimensions for the text.
    """
    if real is not None:
        require_agreement([real, judged])
    clips: dict[str, dict[str, float]] = {clip: {} for clip in judged.rows}
    reference: dict[str, list[float]] = {}
    not_judged: dict[str, str] = {}
    rows = {clip: _rows(judged, clip) for clip in judged.rows}
    real_rows = {video: _rows(real, video) for video in real_ids}
    _add_consistency(judged, real, real_ids, clips, reference, not_judged)
    _add_text(judged, rows, phrases, text_encoder, clips, not_judged)
    measure = _distance_of(judged.manifest, real_rows)
    if len(real_rows) < 2:
        not_judged["realism"] = "no two real training videos to compare with"
    else:
        _add_realism(measure, rows, real_rows, clips, reference)
    if measure.standardised or not judged.manifest.encoder.get("standardise"):
        units = {clip: measure.unit(rows_TxD) for clip, rows_TxD in rows.items()}
        near = _near_pairs(judged, units)
        _add_twins(judged, units, clips, not_judged)
    else:
        near = {}
        reason = "features of this encoder are compared in units of real training videos: none"
        not_judged |= {"twin_similarity": reason, "near-duplicates": reason}
    rounded = {
        clip: {name: round(score, 6) for name, score in scores.items()}
        for clip, scores in clips.items()
    }
    real_rounded = {name: [round(s, 6) for s in scores] for name, scores in reference.items()}
    return FeatureScores(rounded, real_rounded, near, dict(sorted(not_judged.items())))


def is_clip(manifest: Manifest) -> bool:
    """Whether the visual rows lie in the space of a CLIP text tower."""
    return str(manifest.encoder["id"]).startswith("clip-")


def clip_text_encoder(manifest: Manifest, weights: str = "") -> TextEncoder:
    """Loads the text tower of the checkpoint that a store was encoded with.

    Args:
      manifest: manifest of the store.
      weights: the checkpoint's name or folder (default: the default of --encoder=clip-l14).

    Raises:
      UserError: the store's encoder is not CLIP, or the weights are of another checkpoint.
    """
    from generation.encoders import clip, options, text

    weights = weights or clip.DEFAULT_WEIGHTS
    name, store_name = pretrained.name_of(weights), str(manifest.encoder["weights"])
    remedy = "give the name or folder that the store was encoded with"
    if not is_clip(manifest) or name != store_name:
        raise UserError(
            "--clip_weights: expected the checkpoint of the store's features, "
            f"{manifest.encoder['id']!r} of {store_name!r}, found {name!r}; {remedy}"
        )
    encoder = text.make_text_encoder(
        options.TextOptions(text_encoder="clip-l14", text_weights=weights)
    )
    if manifest.encoder.get("digest") not in (None, pretrained.known_digest(weights)):
        raise UserError(
            f"--clip_weights: expected the weights of digest {manifest.encoder['digest']}, the "
            f"store's, found others in {weights!r}; {remedy}"
        )
    if encoder.dim != manifest.dim:
        raise UserError(
            f"--clip_weights: expected a text tower of width {manifest.dim}, the store's, found "
            f"{encoder.dim}; {remedy}"
        )
    return encoder


def _rows(opened: Store, video: str) -> np.ndarray:
    """A video's snippets [T, D], a mean over its crops; few of a long one."""
    visual_TxNxD = opened.visual(video)
    if opened.rows[video].source == "real" and len(visual_TxNxD) > SNIPPETS:
        spread = np.linspace(0, len(visual_TxNxD) - 1, SNIPPETS).round().astype(int)
        visual_TxNxD = visual_TxNxD[spread]
    visual_TxNxD = visual_TxNxD.astype(np.float32)
    # CLIP's space is one of directions: a longer vector says no more than a shorter one.
    return (_unit(visual_TxNxD) if is_clip(opened.manifest) else visual_TxNxD).mean(axis=1)


def _unit(rows_xD: np.ndarray) -> np.ndarray:
    return rows_xD / np.maximum(np.linalg.norm(rows_xD, axis=-1, keepdims=True), 1e-12)


def _add_consistency(judged, real, real_ids, clips, reference, not_judged) -> None:
    if not is_clip(judged.manifest):
        not_judged["consistency"] = "no CLIP features"
        return
    found = {
        clip: (row.feature_statistics or {}).get("consistency") for clip, row in judged.rows.items()
    }
    for clip, value in found.items():
        if value is not None:
            clips[clip]["consistency"] = float(value)
    rows = [real.rows[video].feature_statistics or {} for video in real_ids]
    reference["consistency"] = [float(r["consistency"]) for r in rows if "consistency" in r]
    without = sum(value is None for value in found.values())
    if without:
        not_judged["consistency"] = f"{without} clips were encoded without it"
    elif not reference["consistency"]:
        not_judged["consistency"] = "no real training video has it to compare with"


def _add_text(judged, rows, phrases, text_encoder, clips, not_judged) -> None:
    names = ("text_similarity", "pair_margin")
    if not is_clip(judged.manifest):
        not_judged |= dict.fromkeys(names, "no CLIP features")
        return
    if not phrases or text_encoder is None:
        not_judged |= dict.fromkeys(names, "no descriptions (--prompts)")
        return
    twins = {clip: row.twin for clip, row in judged.rows.items()}
    wanted = sorted({phrases[i] for i in (*twins, *twins.values()) if i in phrases})
    unit_PxD = _unit(text_encoder(wanted).astype(np.float32)) if wanted else np.zeros((0, 1))
    of_phrase = dict(zip(wanted, unit_PxD, strict=True))
    for clip, twin in twins.items():
        mean_D = _unit(_unit(rows[clip]).mean(axis=0))
        own, other = (
            float(mean_D @ of_phrase[phrases[name]]) if name in phrases else None
            for name in (clip, twin)
        )
        if own is not None:
            clips[clip]["text_similarity"] = own
        if own is not None and other is not None:
            clips[clip]["pair_margin"] = own - other
    for name, lack in zip(names, ("no description", "no description of their twin"), strict=True):
        without = sum(name not in scores for scores in clips.values())
        if without:
            not_judged[name] = f"{without} clips have {lack}"


@dataclasses.dataclass(frozen=True)
class _Distance:
    """How features of one encoder compare: cosines, or standardised by real training snippets."""

    mean_D: np.ndarray | None = None
    std_D: np.ndarray | None = None

    @property
    def standardised(self) -> bool:
        return self.mean_D is not None

    def scaled(self, rows_TxD: np.ndarray) -> np.ndarray:
        """Rows of length 1; or rows whose distances are root mean squares of their differences."""
        if not self.standardised:
            return _unit(rows_TxD)
        return (rows_TxD - self.mean_D) / (self.std_D * np.float32(np.sqrt(rows_TxD.shape[1])))

    def unit(self, rows_TxD: np.ndarray) -> np.ndarray:
        """Rows of length 1, whose products are cosines."""
        return _unit(self.scaled(rows_TxD))


def _distance_of(manifest: Manifest, real_rows: Mapping[str, np.ndarray]) -> _Distance:
    if not manifest.encoder.get("standardise") or not real_rows:
        return _Distance()
    every_SxD = np.concatenate(list(real_rows.values()))
    std_D = every_SxD.std(axis=0)
    return _Distance(every_SxD.mean(axis=0), np.where(std_D > 1e-6, std_D, 1.0).astype(np.float32))


def _add_realism(measure: _Distance, rows, real_rows, clips, reference) -> None:
    real_SxD = measure.scaled(np.concatenate(list(real_rows.values())))
    square_S = np.square(real_SxD).sum(axis=1)
    count = min(NEIGHBOURS, len(real_SxD))

    def realism(rows_TxD: np.ndarray, own: slice) -> float:
        """1 - mean distance of each snippet to its nearest real ones, its own video's apart."""
        total = 0.0
        for start in range(0, len(rows_TxD), _CHUNK):
            chunk_TxD = measure.scaled(rows_TxD[start : start + _CHUNK])
            square_T = np.square(chunk_TxD).sum(axis=1)
            squared_TxS = square_T[:, None] + square_S - 2 * chunk_TxD @ real_SxD.T
            # Between rows of length 1, half of it is 1 - cosine.
            squared_TxS = np.maximum(squared_TxS, 0)
            distance_TxS = np.sqrt(squared_TxS) if measure.standardised else squared_TxS / 2
            distance_TxS[:, own] = np.inf
            total += float(np.partition(distance_TxS, count - 1, axis=1)[:, :count].sum())
        return 1 - total / (len(rows_TxD) * count)

    borders = np.cumsum([0, *(len(rows_TxD) for rows_TxD in real_rows.values())])
    count = min(count, int(len(real_SxD) - np.diff(borders).max()))
    reference["realism"] = [
        realism(rows_TxD, slice(borders[number], borders[number + 1]))
        for number, rows_TxD in enumerate(real_rows.values())
    ]
    for clip, rows_TxD in rows.items():
        clips[clip]["realism"] = realism(rows_TxD, slice(0))


def _similarity(a_TxD: np.ndarray, b_TxD: np.ndarray) -> float:
    """Cosine snippet by snippet, or of the means where they aren't equally many."""
    if len(a_TxD) == len(b_TxD):
        return float((a_TxD * b_TxD).sum(axis=1).mean())
    return float(_unit(a_TxD.mean(axis=0)) @ _unit(b_TxD.mean(axis=0)))


def _near_pairs(judged: Store, units: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    near: dict[str, dict[str, float]] = {}
    labels = {clip: judged.videos.videos[clip].label for clip in units}
    for label in sorted(set(labels.values())):
        ids = sorted(clip for clip in units if labels[clip] == label)
        mean_VxD = np.stack([_unit(units[clip].mean(axis=0)) for clip in ids])
        cosine_VxV = mean_VxD @ mean_VxD.T
        # What is alike snippet by snippet is alike on the whole, or nearly.
        for i, j in np.argwhere(np.triu(cosine_VxV, 1) >= NEAR - 0.05).tolist():
            similarity = round(_similarity(units[ids[i]], units[ids[j]]), 6)
            if similarity >= NEAR:
                near.setdefault(ids[i], {})[ids[j]] = similarity
                near.setdefault(ids[j], {})[ids[i]] = similarity
    return near


def _add_twins(judged, units, clips, not_judged) -> None:
    for clip, row in judged.rows.items():
        if row.twin in units:
            clips[clip]["twin_similarity"] = _similarity(units[clip], units[row.twin])
    without = sum("twin_similarity" not in scores for scores in clips.values())
    if without:
        not_judged["twin_similarity"] = f"{without} clips have no twin in the store"
