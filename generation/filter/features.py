"""Scores of generated videos by their features, descriptions and the features of real videos.

Computed from the visual rows of any encoder:
  realism           1 minus the distance to the nearest real snippets of training videos
  twin_similarity   similarity of a video and its twin
  near              pairs of videos of one label that are nearly the same
Computed with CLIP, whose pictures and texts share a space:
  consistency       VBench's temporal consistency, measured on frames while encoding
  text_similarity   cosine of a video and its own phrase
  pair_margin       text_similarity minus the cosine with the phrase of its twin
Scores that cannot be computed are listed with the reason.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from generation.encoders import pretrained
from generation.encoders.protocols import TextEncoder
from gvvad_jax.command import UserError
from gvvad_jax.store.format import Manifest
from gvvad_jax.store.reader import Store, require_agreement

# Number of nearest real snippets with which a snippet is compared.
NEIGHBOURS = 5
# Number of evenly spaced snippets that represent a real video, so that thousands fit in memory.
SNIPPETS = 16
# Least cosine of pairs that are stored; bounds above it can be chosen later.
NEAR = 0.97
_CHUNK = 512
_Scores = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class FeatureScores:
    """Scores that come from features.

    Attributes:
      generated: scores by name, by id of the generated video.
      real: scores of real training videos, by name; realism compares each with the others.
      near: cosines by the id of the other video, by video id, for pairs of one label from NEAR on.
      not_judged: reasons by score, for scores that are missing for some or all videos.
    """

    generated: Mapping[str, Mapping[str, float]]
    real: Mapping[str, Sequence[float]]
    near: Mapping[str, Mapping[str, float]]
    not_judged: Mapping[str, str]


def feature_scores(
    store: Store,
    real: Store | None,
    real_ids: Sequence[str] = (),
    *,
    phrases: Mapping[str, str] | None = None,
    text_encoder: TextEncoder | None = None,
) -> FeatureScores:
    """Scores a store's generated videos by their features.

    Args:
      store: store of the generated videos.
      real: store of the real videos, of the same encoder; None for no comparison with them.
      real_ids: ids of the real training videos, with which to compare.
      phrases: short descriptions by video id, including those of twins.
      text_encoder: text encoder into the visual encoder's space, see `clip_text_encoder`.

    Raises:
      UserError: the stores have different settings.
    """
    if real is not None:
        require_agreement([real, store])
    generated: _Scores = {video_id: {} for video_id in store.rows}
    real_scores: dict[str, list[float]] = {}
    not_judged: dict[str, str] = {}
    rows = {video_id: _rows(store, video_id) for video_id in store.rows}
    real_rows = {video_id: _rows(real, video_id) for video_id in real_ids}
    _add_consistency(store, real, real_ids, generated, real_scores, not_judged)
    _add_text(store, rows, phrases, text_encoder, generated, not_judged)
    measure = _distance(store.manifest, real_rows)
    if len(real_rows) < 2:
        not_judged["realism"] = "no two real training videos to compare with"
    else:
        _add_realism(measure, rows, real_rows, generated, real_scores)
    if measure.standardised or not store.manifest.encoder.get("standardise"):
        units = {video_id: measure.unit(rows_TxD) for video_id, rows_TxD in rows.items()}
        near = _near_pairs(store, units)
        _add_twins(store, units, generated, not_judged)
    else:
        near = {}
        reason = "this encoder's features are standardised by real training videos, found none"
        not_judged |= {"twin_similarity": reason, "near-duplicates": reason}
    return FeatureScores(
        {
            video_id: {name: round(score, 6) for name, score in scores.items()}
            for video_id, scores in generated.items()
        },
        {name: [round(score, 6) for score in scores] for name, scores in real_scores.items()},
        near,
        dict(sorted(not_judged.items())),
    )


def is_clip(manifest: Manifest) -> bool:
    """Returns whether the visual rows share a space with a CLIP text tower."""
    return str(manifest.encoder["id"]).startswith("clip-")


def clip_text_encoder(manifest: Manifest, weights: str = "") -> TextEncoder:
    """Loads the text tower of the checkpoint that a store was encoded with.

    Args:
      manifest: manifest of the store.
      weights: the checkpoint's name or folder (default: the default of --encoder=clip-l14).

    Raises:
      UserError: the store's encoder is not CLIP, or the weights are of another checkpoint.
    """
    from generation.encoders import families, options, text

    weights = weights or families.FAMILIES["clip-l14"].weights
    name, store_name = pretrained.name_of(weights), str(manifest.encoder["weights"])
    remedy = "give the name or folder that the store was encoded with"
    digest = manifest.encoder.get("digest")
    same = digest is not None and digest == pretrained.known_digest(weights, pretrained.IMAGES)
    if not is_clip(manifest) or not (same or name == store_name):
        raise UserError(
            "--clip_weights: expected the checkpoint of the store's features, "
            f"{manifest.encoder['id']!r} of {store_name!r}, found {name!r}; {remedy}"
        )
    encoder = text.make_text_encoder(
        options.TextOptions(text_encoder="clip-l14", text_weights=weights)
    )
    if digest not in (None, pretrained.known_digest(weights, pretrained.IMAGES)):
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


def _rows(store: Store, video_id: str) -> np.ndarray:
    """Returns a video's snippets [T, D], averaged over crops; at most SNIPPETS of a real video."""
    visual_TxNxD = store.visual(video_id)
    if store.rows[video_id].source == "real" and len(visual_TxNxD) > SNIPPETS:
        spread = np.linspace(0, len(visual_TxNxD) - 1, SNIPPETS).round().astype(int)
        visual_TxNxD = visual_TxNxD[spread]
    visual_TxNxD = visual_TxNxD.astype(np.float32)
    # In CLIP's space only directions matter, so crops count the same whatever their length.
    return (_unit(visual_TxNxD) if is_clip(store.manifest) else visual_TxNxD).mean(axis=1)


def _unit(rows_xD: np.ndarray) -> np.ndarray:
    return rows_xD / np.maximum(np.linalg.norm(rows_xD, axis=-1, keepdims=True), 1e-12)


def _add_consistency(
    store: Store,
    real: Store | None,
    real_ids: Sequence[str],
    generated: _Scores,
    real_scores: dict[str, list[float]],
    not_judged: dict[str, str],
) -> None:
    if not is_clip(store.manifest):
        not_judged["consistency"] = "no CLIP features"
        return
    missing = 0
    for video_id, row in store.rows.items():
        value = (row.feature_statistics or {}).get("consistency")
        if value is None:
            missing += 1
        else:
            generated[video_id]["consistency"] = float(value)
    rows = [real.rows[video_id].feature_statistics or {} for video_id in real_ids]
    real_scores["consistency"] = [float(r["consistency"]) for r in rows if "consistency" in r]
    if missing:
        not_judged["consistency"] = f"{missing} videos were encoded without it"
    elif not real_scores["consistency"]:
        not_judged["consistency"] = "no real training video has it to compare with"


def _add_text(
    store: Store,
    rows: Mapping[str, np.ndarray],
    phrases: Mapping[str, str] | None,
    text_encoder: TextEncoder | None,
    generated: _Scores,
    not_judged: dict[str, str],
) -> None:
    names = ("text_similarity", "pair_margin")
    if not is_clip(store.manifest):
        not_judged |= dict.fromkeys(names, "no CLIP features")
        return
    if not phrases or text_encoder is None:
        not_judged |= dict.fromkeys(names, "no descriptions (--prompts)")
        return
    twins = {video_id: row.twin for video_id, row in store.rows.items()}
    wanted = sorted({phrases[i] for i in (*twins, *twins.values()) if i in phrases})
    unit_PxD = _unit(text_encoder(wanted).astype(np.float32)) if wanted else np.zeros((0, 1))
    by_phrase = dict(zip(wanted, unit_PxD, strict=True))
    for video_id, twin in twins.items():
        mean_D = _unit(_unit(rows[video_id]).mean(axis=0))
        own, other = (
            float(mean_D @ by_phrase[phrases[name]]) if name in phrases else None
            for name in (video_id, twin)
        )
        if own is not None:
            generated[video_id]["text_similarity"] = own
        if own is not None and other is not None:
            generated[video_id]["pair_margin"] = own - other
    for name, lack in zip(names, ("no description", "no description of their twin"), strict=True):
        missing = sum(name not in scores for scores in generated.values())
        if missing:
            not_judged[name] = f"{missing} videos have {lack}"


@dataclasses.dataclass(frozen=True)
class _Distance:
    """How features are compared: by cosines, or standardised by real training snippets."""

    mean_D: np.ndarray | None = None
    std_D: np.ndarray | None = None

    @property
    def standardised(self) -> bool:
        return self.mean_D is not None

    def scaled(self, rows_TxD: np.ndarray) -> np.ndarray:
        """Returns rows of length 1, or rows whose distances are root mean square differences."""
        if not self.standardised:
            return _unit(rows_TxD)
        return (rows_TxD - self.mean_D) / (self.std_D * np.float32(np.sqrt(rows_TxD.shape[1])))

    def unit(self, rows_TxD: np.ndarray) -> np.ndarray:
        """Returns rows of length 1, whose products are cosines."""
        return _unit(self.scaled(rows_TxD))


def _distance(manifest: Manifest, real_rows: Mapping[str, np.ndarray]) -> _Distance:
    if not manifest.encoder.get("standardise") or not real_rows:
        return _Distance()
    every_SxD = np.concatenate(list(real_rows.values()))
    std_D = every_SxD.std(axis=0)
    return _Distance(every_SxD.mean(axis=0), np.where(std_D > 1e-6, std_D, 1.0).astype(np.float32))


def _add_realism(
    measure: _Distance,
    rows: Mapping[str, np.ndarray],
    real_rows: Mapping[str, np.ndarray],
    generated: _Scores,
    real_scores: dict[str, list[float]],
) -> None:
    real_SxD = measure.scaled(np.concatenate(list(real_rows.values())))
    square_S = np.square(real_SxD).sum(axis=1)
    count = min(NEIGHBOURS, len(real_SxD))

    def realism(rows_TxD: np.ndarray, own: slice) -> float:
        """Returns 1 - mean distance of each snippet to its nearest real ones outside `own`."""
        total = 0.0
        for start in range(0, len(rows_TxD), _CHUNK):
            chunk_TxD = measure.scaled(rows_TxD[start : start + _CHUNK])
            square_T = np.square(chunk_TxD).sum(axis=1)
            squared_TxS = square_T[:, None] + square_S - 2 * chunk_TxD @ real_SxD.T
            # For rows of length 1, half of the squared distance is 1 - cosine.
            squared_TxS = np.maximum(squared_TxS, 0)
            distance_TxS = np.sqrt(squared_TxS) if measure.standardised else squared_TxS / 2
            distance_TxS[:, own] = np.inf
            total += float(np.partition(distance_TxS, count - 1, axis=1)[:, :count].sum())
        return 1 - total / (len(rows_TxD) * count)

    borders = np.cumsum([0, *(len(rows_TxD) for rows_TxD in real_rows.values())])
    count = min(count, int(len(real_SxD) - np.diff(borders).max()))
    real_scores["realism"] = [
        realism(rows_TxD, slice(borders[number], borders[number + 1]))
        for number, rows_TxD in enumerate(real_rows.values())
    ]
    for video_id, rows_TxD in rows.items():
        generated[video_id]["realism"] = realism(rows_TxD, slice(0))


def _similarity(a_TxD: np.ndarray, b_TxD: np.ndarray) -> float:
    """Returns the mean cosine snippet by snippet, or that of the means if numbers differ."""
    if len(a_TxD) == len(b_TxD):
        return float((a_TxD * b_TxD).sum(axis=1).mean())
    return float(_unit(a_TxD.mean(axis=0)) @ _unit(b_TxD.mean(axis=0)))


def _near_pairs(store: Store, units: Mapping[str, np.ndarray]) -> _Scores:
    """Returns the cosines of nearly equal videos of one label, by both ids."""
    near: _Scores = {}
    labels = {video_id: store.videos.videos[video_id].label for video_id in units}
    for label in sorted(set(labels.values())):
        ids = sorted(video_id for video_id in units if labels[video_id] == label)
        mean_VxD = np.stack([_unit(units[video_id].mean(axis=0)) for video_id in ids])
        cosine_VxV = mean_VxD @ mean_VxD.T
        # Videos whose snippets are similar have similar means, so most pairs can be skipped.
        for i, j in np.argwhere(np.triu(cosine_VxV, 1) >= NEAR - 0.05).tolist():
            similarity = round(_similarity(units[ids[i]], units[ids[j]]), 6)
            if similarity >= NEAR:
                near.setdefault(ids[i], {})[ids[j]] = similarity
                near.setdefault(ids[j], {})[ids[i]] = similarity
    return near


def _add_twins(
    store: Store,
    units: Mapping[str, np.ndarray],
    generated: _Scores,
    not_judged: dict[str, str],
) -> None:
    for video_id, row in store.rows.items():
        if row.twin in units:
            similarity = _similarity(units[video_id], units[row.twin])
            generated[video_id]["twin_similarity"] = similarity
    missing = sum("twin_similarity" not in scores for scores in generated.values())
    if missing:
        not_judged["twin_similarity"] = f"{missing} videos have no twin in the store"
