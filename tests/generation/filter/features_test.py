"""The feature stage on hand-made features, with a tiny CLIP's real text tower."""

import json
import subprocess
import sys

import numpy as np
import pytest

from generation.filter import deciding, features, rules
from generation.filter.decisions import save_decisions
from generation.filter.evidence import gather_from_files
from generation.prompts.descriptions import Description, save_descriptions
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from gvvad_jax.store.format import Manifest, Row
from gvvad_jax.store.reader import Store
from gvvad_jax.store.writer import StoreWriter
from tests.support.tiny_transformers import save_clip

pytestmark = pytest.mark.usefixtures("one_thread")
DIM = 6
PIXELS = {"decoded_share": 1.0}
PHRASES = {
    "a-1": "two men fighting in a yard",
    "a-0": "a dog asleep",
    "b-1": "red cars crash",
    "b-0": "quiet road",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return str(save_clip(tmp_path_factory.mktemp("weights") / "tiny-clip"))


def manifest(name="tiny-clip", dim=DIM, **encoder):
    fields = {
        "id": f"clip-{name}",
        "weights": name,
        "pooling": "mean",
        "normalised": False,
        "standardise": False,
    }
    return Manifest(
        encoder=fields | encoder,
        dim=dim,
        crops={"count": 2, "order": "whole, mirrored"},
        snippet={"frames": 16, "stride": 16, "pooling": "mean"},
        fps_policy="native",
    )


def write(path, rows, *, source="synthetic", consistency=0.9, made=None, splits=None, pixels=None):
    """Writes a store of these rows [T, D]; the two crops differ only in length.

    Labels are the last digits of the ids, in which twins differ.
    """
    made = made or manifest()
    splits = splits or {}
    entries = {
        name: {"file": f"{name}.mp4", "label": int(name[-1]), "split": splits.get(name, "train")}
        for name in rows
    }
    writer = StoreWriter(path, made, annotations.from_json({"videos": entries}, "videos.json"))
    for name, feat_TxD in rows.items():
        feat_TxD = np.atleast_2d(np.asarray(feat_TxD, np.float32))
        # Lengths of crops must not matter.
        visual_TxNxD = np.stack([2 * feat_TxD, feat_TxD / 2], axis=1)
        row = Row(
            id=name,
            num_snippets=len(feat_TxD),
            num_frames=49,
            fps=8.0,
            source=source,
            declared_frames=49,
            decoded_frames=49,
            pixel_statistics=dict(pixels or PIXELS),
            feature_statistics=None if consistency is None else {"consistency": consistency},
            twin=f"{name[:-1]}{1 - int(name[-1])}" if source == "synthetic" else None,
        )
        writer.add(row, visual_TxNxD)
    assert writer.pack()
    return Store(path)


@pytest.fixture(scope="module")
def text(weights):
    return features.clip_text_encoder(manifest(), weights)


@pytest.fixture(scope="module")
def directions(text):
    """Unit vectors of the phrases, which lie far apart."""
    rows = text(list(PHRASES.values()))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert (np.triu(unit @ unit.T, 1) < 0.9).all()
    return dict(zip(PHRASES, unit, strict=True))


def test_similarity_and_margin_by_hand(tmp_path, text, directions):
    """Lengths do not matter; b's videos show each other's text."""
    rows = {
        "a-1": 7 * directions["a-1"] + np.zeros((3, 1)),
        "a-0": [3 * directions["a-0"], 0.1 * directions["a-0"]],
        "b-1": directions["b-0"],
        "b-0": directions["b-1"],
    }
    scores = features.feature_scores(
        write(tmp_path, rows), None, phrases=PHRASES, text_encoder=text
    )
    a, b = directions["a-1"] @ directions["a-0"], directions["b-1"] @ directions["b-0"]
    for video_id, similarity, margin in (
        ("a-1", 1, 1 - a), ("a-0", 1, 1 - a), ("b-1", b, b - 1), ("b-0", b, b - 1),
    ):  # fmt: skip
        assert scores.generated[video_id]["text_similarity"] == pytest.approx(similarity, abs=1e-5)
        assert scores.generated[video_id]["pair_margin"] == pytest.approx(margin, abs=1e-5)
        assert scores.generated[video_id]["consistency"] == 0.9
    assert scores.generated["a-1"]["twin_similarity"] == pytest.approx(a, abs=1e-5)
    assert set(scores.not_judged) == {"consistency", "realism"}


def test_a_crop_counts_by_its_direction_alone(tmp_path):
    made = manifest()
    videos = annotations.from_json(
        {"videos": {"a-0": {"file": "a.mp4", "label": 0, "split": "train"}}}, "videos.json"
    )
    writer = StoreWriter(tmp_path, made, videos)
    frames = {"num_frames": 49, "fps": 8.0, "declared_frames": 49, "decoded_frames": 49}
    visual_TxNxD = np.float32([[[9, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]])
    writer.add(Row(id="a-0", num_snippets=1, source="synthetic", **frames), visual_TxNxD)
    writer.pack()
    mean_TxD = features._rows(Store(tmp_path), "a-0")
    np.testing.assert_allclose(mean_TxD, [[0.5, 0.5, 0, 0, 0, 0]])


def test_realism_by_hand(tmp_path):
    """Three real videos in a plane; the snippets of a long one do not outnumber the others."""

    def at(degrees):
        angle = np.deg2rad(np.atleast_1d(degrees))
        return np.stack([np.cos(angle), np.sin(angle), *[0 * angle] * 4], axis=1)

    real = write(
        tmp_path / "real",
        {"r-0": at([0] * 40), "s-0": at([60] * 4), "t-1": at([90] * 4), "u-0": at(200)},
        source="real",
        splits={"u-0": "test"},
    )
    videos = write(tmp_path / "videos", {"x-0": at([0, 30]), "y-1": 5 * at(150)})
    scores = features.feature_scores(videos, real, ["r-0", "s-0", "t-1"])
    cosine = lambda degrees: np.cos(np.deg2rad(degrees))  # noqa: E731
    # Five nearest of each snippet: 0 degrees five times; at 30, sixteen at 0 and four at 60.
    assert scores.generated["x-0"]["realism"] == pytest.approx((1 + cosine(30)) / 2, abs=1e-5)
    expected = (4 * cosine(60) + cosine(90)) / 5
    assert scores.generated["y-1"]["realism"] == pytest.approx(expected, abs=1e-5)
    of_real = [(4 * cosine(60) + cosine(90)) / 5, (4 * cosine(30) + cosine(60)) / 5]
    of_real.append((4 * cosine(30) + cosine(90)) / 5)
    np.testing.assert_allclose(scores.real["realism"], of_real, atol=1e-5)
    assert scores.real["consistency"] == [0.9] * 3 and "realism" not in scores.not_judged


def test_features_of_other_encoders_are_standardised_by_real_videos(tmp_path):
    motion = manifest("motion", dim=2, id="motion-v1", weights="none", standardise=True)
    rng = np.random.default_rng(0)
    spread = np.array([1000.0, 0.01])
    real_rows = {f"r{i}-{i % 2}": spread * rng.normal(size=(8, 2)) for i in range(6)}
    real = write(tmp_path / "real", real_rows, source="real", made=motion, consistency=None)
    videos = {"in-0": spread * [0.1, 0.1], "small-0": spread * [0.1, 9], "large-1": spread * [9, 0]}
    judged = write(tmp_path / "videos", videos, made=motion, consistency=None)
    scores = features.feature_scores(judged, real, list(real_rows), phrases=PHRASES)
    realism = {video_id: by_name["realism"] for video_id, by_name in scores.generated.items()}
    # Nine standard deviations in one of two dimensions: a root mean square of about 6.
    assert realism["in-0"] > 0.5
    assert -7 < realism["small-0"] < -3 and -7 < realism["large-1"] < -3
    for name in ("consistency", "text_similarity", "pair_margin"):
        assert scores.not_judged[name] == "no CLIP features"
    # Without real videos, the features have no unit.
    alone = features.feature_scores(judged, None)
    assert {"realism", "twin_similarity", "near-duplicates"} <= set(alone.not_judged)
    assert not alone.near


def test_near_duplicates_are_of_one_label(tmp_path, directions):
    base, other = directions["a-1"], directions["b-0"]
    rows = {
        "first-1": base,
        "second-1": 3 * base + 0.01 * other,
        "third-1": base + 0.02 * other,
        "first-0": base,
        "lonely-1": other,
    }
    judged = write(tmp_path, rows)
    scores = features.feature_scores(judged, None)
    assert set(scores.near) == {"first-1", "second-1", "third-1"}
    assert set(scores.near["first-1"]) == {"second-1", "third-1"}
    assert scores.near["first-1"]["third-1"] == scores.near["third-1"]["first-1"] > 0.99
    # Twins that show the same are not near-duplicates.
    assert scores.generated["first-1"]["twin_similarity"] == pytest.approx(1.0)


def test_text_of_another_checkpoint_is_refused_by_name(tmp_path, weights):
    with pytest.raises(UserError, match=r"--clip_weights: .*'other'.*'tiny-clip'"):
        features.clip_text_encoder(manifest("other"), weights)
    with pytest.raises(UserError, match="clip-vit-large-patch14"):
        features.clip_text_encoder(manifest())
    with pytest.raises(UserError, match="width 768, the store's, found 6"):
        features.clip_text_encoder(manifest(dim=768), weights)
    motion = manifest("motion", id="motion-v1")
    with pytest.raises(UserError, match="motion-v1"):
        features.clip_text_encoder(motion, weights)
    judged = write(tmp_path / "a", {"a-1": np.ones(DIM)})
    other = write(tmp_path / "b", {"r-0": np.ones(DIM)}, source="real", made=manifest("other"))
    with pytest.raises(UserError, match="encoder"):
        features.feature_scores(judged, other, ["r-0"])


def test_missing_scores_are_counted(tmp_path, text, directions):
    rows = {"a-1": directions["a-1"], "a-0": directions["a-0"], "lone-1": np.ones(DIM)}
    judged = write(tmp_path / "videos", rows, consistency=None)
    scores = features.feature_scores(
        judged, None, phrases=PHRASES | {"lone-1": "a dog"}, text_encoder=text
    )
    assert scores.not_judged["consistency"] == "3 videos were encoded without it"
    assert scores.not_judged["pair_margin"] == "1 videos have no description of their twin"
    assert scores.not_judged["twin_similarity"] == "1 videos have no twin in the store"
    assert "text_similarity" not in scores.not_judged
    assert "pair_margin" not in scores.generated["lone-1"]
    silent = features.feature_scores(judged, None, phrases=PHRASES)
    assert "--prompts" in silent.not_judged["text_similarity"]


def test_videos_of_their_twins_text_are_dropped_and_decided_again_without_models(
    tmp_path, weights, directions
):
    rows = {video_id: directions[video_id] for video_id in ("a-1", "a-0")}
    # Enough other videos for a median and a spread of the margins.
    rows |= {"b-1": directions["b-0"], "b-0": directions["b-0"] + 0.2 * directions["a-0"]}
    pixels = {rule.score: 0.0 for rule in rules._RELATIVE} | PIXELS
    pixels |= {"cut_ratio": 1.0, "cut_change": 0.1}
    good = dict.fromkeys(("motion", "sharpness", "detail", "carried"), 1.0)
    write(tmp_path / "syn", rows, pixels=pixels | good)
    real_rows = {f"r{i}-{i % 2}": row for i, row in enumerate(directions.values())}
    write(tmp_path / "real", real_rows, source="real", pixels=pixels | good)
    save_descriptions(
        tmp_path / "prompts.jsonl",
        [
            Description(
                id=video_id, twin=f"{video_id[:-1]}{1 - int(video_id[-1])}", cls="Fighting",
                label=int(video_id[-1]), seed=0, viewpoint="v", location="l", subject="s",
                event="e", description=phrase, phrase=phrase,
            )
            for video_id, phrase in PHRASES.items()
        ],
    )  # fmt: skip
    paths = [tmp_path / name for name in ("syn", "real", "prompts.jsonl")]
    evidence = gather_from_files(*paths, weights)
    assert evidence.not_judged == {}
    options = deciding.FilterOptions()
    decisions = deciding.decide(evidence, options)
    reasons = {d.id: d.reasons for d in decisions}
    assert "twin's text" in reasons["b-1"]
    assert not any("twin's text" in reasons[video_id] for video_id in ("a-1", "a-0", "b-0"))
    with pytest.raises(UserError, match="clip-vit-large-patch14"):
        gather_from_files(*paths)
    out, again = tmp_path / "decisions.jsonl", tmp_path / "again.jsonl"
    save_decisions(out, decisions, evidence, options)
    command = [sys.executable, "-m", "generation.filter", f"--scores={out}", f"--out={again}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert again.read_text() == out.read_text()
    assert json.loads(done.stdout)["not_judged"] == {}
