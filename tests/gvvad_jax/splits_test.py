"""Splits of a run's videos, and standardisation."""

import collections
import dataclasses
import json

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.splits import members_of, open_splits, read_decisions, report_reasons
from gvvad_jax.standardisation import Standardisation, standards
from gvvad_jax.store.format import rows_hash
from gvvad_jax.store.reader import Store
from gvvad_jax.store.writer import StoreWriter
from tests.support.stores import DIM, make_manifest, reseal, write_store


def test_validation_is_stratified_and_seeded(real_store):
    config = TrainConfig(store=str(real_store), validation_share=0.2)
    splits, _ = open_splits(config)
    labels = [m.video.label for m in splits.validation]
    assert collections.Counter(labels) == {0: 2, 1: 1}
    ids = {m.video.id for m in splits.train} | {m.video.id for m in splits.validation}
    assert len(ids) == 15 and len(splits.train) == 12 and len(splits.test) == 6
    again, _ = open_splits(config)
    assert again.to_json() == splits.to_json()
    other, _ = open_splits(dataclasses.replace(config, seed=1))
    assert other.to_json() != splits.to_json()


def test_few_videos_of_a_label_leave_no_validation(tmp_path):
    write_store(tmp_path / "s", {"train": (8, 4)})
    splits, _ = open_splits(TrainConfig(store=str(tmp_path / "s")))
    assert splits.validation == [] and len(splits.train) == 12


def test_named_validation_videos_are_used(tmp_path):
    write_store(tmp_path / "s", {"train": (6, 6), "validation": (1, 1)})
    splits, _ = open_splits(TrainConfig(store=str(tmp_path / "s")))
    assert len(splits.validation) == 2 and len(splits.train) == 12


def test_synthetic_videos_join_the_training_videos_only(real_store, synthetic_store, decisions):
    config = TrainConfig(store=str(real_store), synthetic_store=str(synthetic_store))
    alone, _ = open_splits(TrainConfig(store=str(real_store)))
    splits, _ = open_splits(config)
    assert splits.validation == alone.validation or (
        [m.video for m in splits.validation] == [m.video for m in alone.validation]
    )
    assert sum(m.row.source == "synthetic" for m in splits.train) == 9
    kept, _ = open_splits(dataclasses.replace(config, synthetic_keep=str(decisions)))
    assert sum(m.row.source == "synthetic" for m in kept.train) == 8


def test_a_video_without_a_decision_is_refused(real_store, synthetic_store, tmp_path):
    path = tmp_path / "decisions.jsonl"
    path.write_text(json.dumps({"id": "syn-train-0-0", "keep": True}) + "\n")
    config = TrainConfig(
        store=str(real_store), synthetic_store=str(synthetic_store), synthetic_keep=str(path)
    )
    with pytest.raises(UserError, match=r"decisions.jsonl: expected a decision .* 7 more"):
        open_splits(config)


@pytest.mark.parametrize(
    "content",
    [b"{}", b"nonsense", b"[]", b'{"id": "a", "keep": "false"}', b'{"id": 1, "keep": true}'],
)
def test_wrong_decisions_are_refused(tmp_path, content):
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(content + b"\n")
    with pytest.raises(UserError, match="decisions.jsonl: line 1"):
        read_decisions(path)


def test_annotations_override_the_store(real_store, tmp_path):
    content = json.loads((real_store / "videos.json").read_text())
    del content["videos"]["test-0-0"]
    content["videos"]["train-1-0"]["split"] = "test"
    (tmp_path / "videos.json").write_text(json.dumps(content))
    splits, _ = open_splits(
        TrainConfig(store=str(real_store), annotations=str(tmp_path / "videos.json"))
    )
    tests = {m.video.id for m in splits.test}
    assert "test-0-0" not in tests and "train-1-0" in tests


def test_a_label_without_training_videos_is_refused(tmp_path):
    write_store(tmp_path / "s", {"train": (3, 0)})
    with pytest.raises(UserError, match="abnormal training video"):
        open_splits(TrainConfig(store=str(tmp_path / "s")))


def test_missing_text_is_refused(tmp_path):
    write_store(tmp_path / "s", {"train": (3, 3)}, manifest=make_manifest(text=None))
    with pytest.raises(UserError, match="feature_group=visual"):
        open_splits(TrainConfig(store=str(tmp_path / "s")))


def test_standardised_real_training_features_have_mean_0_and_deviation_1(
    real_store, synthetic_store
):
    config = TrainConfig(
        store=str(real_store), synthetic_store=str(synthetic_store), standardise="yes"
    )
    splits, _ = open_splits(config)
    standard = standards(splits.train, config).real
    rows = [
        standard.apply(m.store.visual(m.video.id)).reshape(-1, DIM)
        for m in splits.train
        if m.row.source == "real"
    ]
    rows = np.concatenate(rows)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(rows.std(axis=0), 1, atol=1e-5)
    again = Standardisation.from_json(json.loads(json.dumps(standard.to_json())))
    np.testing.assert_array_equal(again.std_D, standard.std_D)


def test_auto_standardises_where_the_encoder_asks(real_store, tmp_path):
    config = TrainConfig(store=str(real_store))
    splits, _ = open_splits(config)
    assert standards(splits.train, config).real.mean_D is None
    asking = make_manifest(encoder={"id": "motion", "standardise": True})
    write_store(tmp_path / "s", {"train": (3, 3)}, manifest=asking)
    splits, _ = open_splits(TrainConfig(store=str(tmp_path / "s")))
    assert standards(splits.train, config).real.mean_D is not None


def test_a_feature_that_never_moves_stays_finite(tmp_path):
    opened = Store(write_store(tmp_path / "s", {"train": (3, 3)}))
    opened.visual = lambda _: np.full((40, 2, DIM), 7.0)
    member = members_of(opened, None)[0]
    standard = standards([member], TrainConfig(standardise="yes")).real
    np.testing.assert_array_equal(standard.std_D, 1.0)


@pytest.mark.parametrize("power", [-20, 20])
def test_standardised_features_do_not_depend_on_their_unit(tmp_path, power):
    """Features scaled by a power of two, 1e-6 or 1e6: the same to the last bit."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 2, DIM)).astype(np.float32)
    rows[..., 0], rows[..., 1] = 7.0, 0.0  # Constant in training.
    rows[..., 2] = 1e-9 * rng.normal(size=(40, 2))  # Noise beside the others.
    opened = Store(write_store(tmp_path / "s", {"train": (1, 1)}))
    member = members_of(opened, None)[0]

    def standard(scale):
        opened.visual = lambda _: rows * np.float32(scale)
        return standards([member], TrainConfig(standardise="yes")).real

    plain, scaled = standard(1), standard(2.0**power)
    np.testing.assert_array_equal(scaled.apply(rows * np.float32(2.0**power)), plain.apply(rows))
    np.testing.assert_allclose(plain.std_D[3:], rows[..., 3:].std((0, 1)), rtol=1e-5)
    usual = np.median(rows.std((0, 1), dtype=np.float64)[2:])
    np.testing.assert_allclose(plain.std_D[:3], usual, rtol=1e-5)


@pytest.mark.parametrize(("share", "count"), [(0.25, 2), (0.5, 4), (0.75, 6), (1.0, 8)])
def test_the_sampling_rate_thins_real_videos_alone(tmp_path, synthetic_store, share, count):
    write_store(tmp_path / "s", {"train": (8, 8), "test": (1, 1)})
    config = TrainConfig(
        store=str(tmp_path / "s"),
        synthetic_store=str(synthetic_store),
        validation_share=0,
        real_share=share,
    )
    splits, _ = open_splits(config)
    real = [m for m in splits.train if m.row.source == "real"]
    assert [sum(m.video.label == label for m in real) for label in (0, 1)] == [count, count]
    assert len(splits.train) - len(real) == 9 and len(splits.test) == 2
    again, _ = open_splits(config)
    assert again.to_json() == splits.to_json()
    other, _ = open_splits(dataclasses.replace(config, seed=1))
    assert (other.to_json() != splits.to_json()) == (share < 1)


def test_meta_holds_real_videos_out_of_training_and_validation(real_store, synthetic_store):
    config = TrainConfig(
        store=str(real_store),
        synthetic_store=str(synthetic_store),
        lambda_mode="meta",
        meta_share=0.3,
        validation_share=0.2,
    )
    splits, _ = open_splits(config)
    ids = {use: set(use_ids) for use, use_ids in splits.to_json().items()}
    assert len(ids["held_out"]) == 4 and len(ids["validation"]) == 3
    uses = list(ids.values())
    assert sum(map(len, uses)) == len(set.union(*uses))
    assert all(m.row.source == "real" for m in splits.held_out)
    assert {m.video.label for m in splits.held_out} == {0, 1}


def test_too_few_videos_to_hold_any_out_are_refused(tmp_path):
    write_store(tmp_path / "s", {"train": (1, 4)})
    config = TrainConfig(store=str(tmp_path / "s"), lambda_mode="meta")
    with pytest.raises(UserError, match="at least two real training videos of each label"):
        open_splits(config)


def _open(path, **changes):
    return open_splits(TrainConfig(store=str(path), **changes))


def test_a_synthetic_store_with_real_videos_is_refused(real_store, tmp_path):
    write_store(tmp_path / "s", {"train": (1, 1)}, prefix="other-")
    with pytest.raises(UserError, match=r"s: expected only generated videos .* 'other-train-0-0'"):
        _open(real_store, synthetic_store=str(tmp_path / "s"))


def test_generated_videos_of_other_splits_do_not_train(real_store, tmp_path):
    write_store(
        tmp_path / "s", {"train": (1, 2), "test": (2, 2)}, source="synthetic", prefix="syn-"
    )
    splits, _ = _open(real_store, synthetic_store=str(tmp_path / "s"))
    generated = [m.video.id for m in splits.train if m.row.source == "synthetic"]
    assert generated == ["syn-train-0-0", "syn-train-1-0", "syn-train-1-1"]
    write_store(tmp_path / "none", {"test": (2, 2)}, source="synthetic", prefix="syn-")
    with pytest.raises(UserError, match="none: expected generated videos of split train"):
        _open(real_store, synthetic_store=str(tmp_path / "none"))


def test_decisions_without_their_store_are_refused(real_store, decisions):
    with pytest.raises(UserError, match="--synthetic_keep: expected --synthetic_store"):
        _open(real_store, synthetic_keep=str(decisions))


def test_generated_videos_in_a_store_of_real_ones_are_refused(synthetic_store, real_store):
    for paths in (synthetic_store, f"{real_store},{synthetic_store}"):
        with pytest.raises(UserError, match="expected only real .*'syn-train-0-0' and 8 more"):
            _open(paths)


def test_a_video_that_is_both_real_and_generated_is_refused(real_store, tmp_path):
    write_store(tmp_path / "s", {"train": (1, 1)}, source="synthetic", seed=1)
    with pytest.raises(UserError, match=r"'train-0-0' in \S+real and in \S+s;"):
        _open(real_store, synthetic_store=str(tmp_path / "s"))


def test_a_video_decided_twice_is_refused(tmp_path):
    path = tmp_path / "decisions.jsonl"
    lines = [{"id": "a", "keep": True}, {"id": "b", "keep": True}, {"id": "a", "keep": True}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="found 'a' decided in line 1 and in line 3; remove one"):
        read_decisions(path)


def _sharing(path, split, *, constant=False, source="real", prefix="more-"):
    """A store of one normal and one abnormal video, whose rows are those of every such store."""
    opened = write_store(path, {split: (1, 1)}, source=source, seed=7, prefix=prefix)
    if constant:
        arrays = {}
        for kind in ("visual", "text"):
            arrays[kind] = np.zeros_like(np.load(opened / f"shard-00000.{kind}.npy"))
            np.save(opened / f"shard-00000.{kind}.npy", arrays[kind])
        shard = opened / "shard-00000.jsonl"
        rows = [json.loads(line) for line in shard.open()]
        for row in rows:
            span = slice(row["offset"], row["offset"] + row["num_snippets"])
            row["sha256"] = rows_hash(*(array[span] for array in arrays.values()))
        shard.write_text("".join(json.dumps(row) + "\n" for row in rows))
        reseal(opened)
    return opened


@pytest.mark.parametrize("source", ["real", "synthetic"])
def test_rows_in_training_and_in_test_are_refused(real_store, tmp_path, source, capsys):
    tested = _sharing(tmp_path / "tested", "test")
    seen = _sharing(tmp_path / "seen", "train", source=source, prefix="seen-")
    stores = f"{real_store},{tested}"
    changes = {"store": stores, "synthetic_store": str(seen)}
    if source == "real":
        changes = {"store": f"{stores},{seen}"}
    with pytest.raises(
        UserError,
        match=r"'seen-train-0-0' of \S+seen and in 'more-test-0-0' of \S+tested, and in 1 more",
    ):
        open_splits(TrainConfig(**changes))
    splits, _ = open_splits(TrainConfig(**changes, allow_shared_rows=True))
    assert len(splits.test) == 8
    assert "found the same rows in 'seen-train-0-0'" in capsys.readouterr().err


def test_rows_that_do_not_vary_may_be_shared(real_store, tmp_path, capsys):
    tested = _sharing(tmp_path / "tested", "test", constant=True)
    seen = _sharing(tmp_path / "seen", "train", constant=True, prefix="seen-")
    assert len(_open(f"{real_store},{tested},{seen}")[0].test) == 8
    assert "rows" not in capsys.readouterr().err


def test_validation_videos_with_rows_of_training_videos_are_reported(tmp_path, capsys):
    seen = _sharing(tmp_path / "seen", "train")
    chosen = _sharing(tmp_path / "chosen", "validation", prefix="chosen-")
    _open(f"{seen},{chosen}")
    assert "2 validation videos have the rows of training videos" in capsys.readouterr().err


def test_a_video_in_two_stores_is_refused(tmp_path):
    for name, prefix in (("a", ""), ("b", ""), ("c", "c-")):
        write_store(tmp_path / name, {"train": (2, 2)}, prefix=prefix)
    splits, _ = _open(f"{tmp_path / 'a'},{tmp_path / 'c'}")
    assert len(splits.train) == 8
    for other in ("b", "a"):
        with pytest.raises(UserError, match=rf"'train-0-0' in \S+a and in \S+{other};"):
            _open(f"{tmp_path / 'a'},{tmp_path / other}")
    with pytest.raises(UserError, match="--store: expected .*,; name each"):
        _open(f"{tmp_path / 'a'},")


def _without_line(path, video_id):
    """Removes a video's line from a store of one shard."""
    shard = path / "shard-00000.jsonl"
    lines = shard.read_text().splitlines(keepends=True)
    shard.write_text("".join(line for line in lines if f'"{video_id}"' not in line))
    reseal(path)


@pytest.mark.parametrize("video_id", ["test-1-0", "train-0-1"])
def test_a_listed_video_is_encoded_or_in_quarantine(tmp_path, video_id, capsys):
    path = write_store(tmp_path / "s", {"train": (2, 2), "test": (1, 2)})
    _without_line(path, video_id)
    with pytest.raises(UserError, match=rf"s: expected every \w+ video .* found '{video_id}'"):
        _open(path)
    (path / "quarantine.jsonl").write_text(json.dumps({"id": video_id, "reason": "cut"}) + "\n")
    splits, _ = _open(reseal(path))
    assert splits.missing == [video_id] * video_id.startswith("test")
    assert f"couldn't be encoded, '{video_id}' first" in capsys.readouterr().err


def test_annotations_may_list_more_than_what_trains(tmp_path, capsys):
    path = write_store(tmp_path / "s", {"train": (2, 2), "test": (1, 1)})
    content = json.loads((path / "videos.json").read_text())
    content["videos"]["more"] = {"file": "more.mp4", "label": 0, "split": "train"}
    override = tmp_path / "videos.json"
    override.write_text(json.dumps(content))
    assert len(_open(path, annotations=str(override))[0].train) == 4
    assert "1 train videos are in no store, 'more' first" in capsys.readouterr().err
    content["videos"]["more"]["split"] = "test"
    override.write_text(json.dumps(content))
    with pytest.raises(UserError, match="videos.json: expected every test video .* 'more'"):
        _open(path, annotations=str(override))


def _with_groups(store, group_of):
    """Gives a store's videos the groups that `group_of` names by id; None for none."""
    content = json.loads((store / "videos.json").read_text())
    for video_id, entry in content["videos"].items():
        if group := group_of(video_id):
            entry["group"] = group
    (store / "videos.json").write_text(json.dumps(content))
    return reseal(store)


def test_groups_are_never_divided_between_training_and_validation(tmp_path):
    # Cameras of 3 videos of a label each, the numbers 0 to 2, 3 to 5, ...
    store = write_store(tmp_path / "s", {"train": (30, 30)})
    _with_groups(store, lambda i: f"{i.split('-')[1]} {int(i.split('-')[2]) // 3}")
    seen = set()
    for seed in range(5):
        splits, _ = open_splits(TrainConfig(store=str(store), validation_share=0.2, seed=seed))
        assert collections.Counter(m.video.label for m in splits.validation) == {0: 6, 1: 6}
        assert len(splits.train) == 48
        groups = {m.video.group for m in splits.validation}
        assert len(groups) == 4 and not groups & {m.video.group for m in splits.train}
        seen.add(tuple(sorted(groups)))
    assert len(seen) > 1


def test_a_group_of_both_labels_counts_for_both_and_no_label_loses_its_last_group(tmp_path):
    store = write_store(tmp_path / "s", {"train": (10, 10)})
    _with_groups(store, lambda i: f"pair {i.split('-')[2]}")
    splits, _ = open_splits(TrainConfig(store=str(store), validation_share=0.2))
    assert collections.Counter(m.video.label for m in splits.validation) == {0: 2, 1: 2}
    # All abnormal videos are of one place: they train.
    other = write_store(tmp_path / "t", {"train": (10, 10)})
    _with_groups(other, lambda i: "one place" if i.split("-")[1] == "1" else None)
    splits, _ = open_splits(TrainConfig(store=str(other), validation_share=0.2))
    assert {m.video.label for m in splits.validation} == {0} and len(splits.train) == 18
    with pytest.raises(UserError, match="expected groups that can be held out"):
        open_splits(TrainConfig(store=str(other), lambda_mode="meta", validation_share=0.0))


def test_a_camera_is_held_out_only_if_it_fits_into_the_share_of_either_label(tmp_path):
    """One of 20 normal videos, nine of 2, and an abnormal video each."""
    store = write_store(tmp_path / "s", {"train": (38, 10)})

    def camera(video_id):
        _, label, number = video_id.split("-")
        return str(max(0, int(number) - 18) // 2 if label == "0" else number)

    _with_groups(store, camera)
    for seed in range(5):
        splits, _ = open_splits(TrainConfig(store=str(store), validation_share=0.1, seed=seed))
        assert collections.Counter(m.video.label for m in splits.validation) == {0: 2, 1: 1}


def test_without_groups_the_split_is_the_one_that_was_always_drawn(real_store):
    splits, _ = open_splits(TrainConfig(store=str(real_store), validation_share=0.2))
    drawn = set()
    for label, count in ((0, 2), (1, 1)):
        ids = [f"train-{label}-{i}" for i in range(8 - label)]
        rng = np.random.default_rng([0, label, 2])
        drawn |= set(rng.choice(ids, count, replace=False).tolist())
    assert {m.video.id for m in splits.validation} == drawn


def test_generated_videos_of_a_validation_videos_group_dont_train(tmp_path, capsys):
    store = write_store(tmp_path / "s", {"train": (10, 10)})
    generated = write_store(tmp_path / "g", {"train": (10, 10)}, source="synthetic", prefix="g-")
    # Each starts from a real normal video, which has no group of its own.
    _with_groups(generated, lambda i: f"train-0-{i.split('-')[3]}")
    config = TrainConfig(
        store=str(store), synthetic_store=str(generated), validation_share=0.2,
        allow_shared_rows=True,
    )  # fmt: skip
    splits, _ = open_splits(config)
    normal = {m.video.id for m in splits.validation if not m.video.label}
    kept = [m.video.group for m in splits.train if m.row.source == "synthetic"]
    assert len(normal) == 2 and len(kept) == 16 and not normal & set(kept)
    assert "4 generated videos are left out" in capsys.readouterr().err


def test_a_group_that_the_list_divides_is_reported(tmp_path, capsys):
    store = write_store(tmp_path / "s", {"train": (3, 3), "test": (1, 1)})
    _with_groups(store, lambda i: "gate" if i in ("train-0-0", "test-0-0") else None)
    open_splits(TrainConfig(store=str(store)))
    assert "divides 1 groups between training and other splits, first 'gate'" in (
        capsys.readouterr().err
    )


def test_several_synthetic_stores_train_together(real_store, synthetic_store, tmp_path):
    other = write_store(
        tmp_path / "o", {"train": (2, 2)}, source="synthetic", seed=5, prefix="other-"
    )
    paths = f"{synthetic_store},{other}"
    splits, stores = open_splits(TrainConfig(store=str(real_store), synthetic_store=paths))
    by_store = collections.Counter(str(m.store.path) for m in splits.train)
    assert (by_store[str(synthetic_store)], by_store[str(other)]) == (9, 4)
    assert [str(opened.path) for opened in stores] == [str(real_store), *paths.split(",")]
    with pytest.raises(UserError, match="--synthetic_store: expected feature stores"):
        open_splits(TrainConfig(store=str(real_store), synthetic_store=f"{other},"))


def _reasons(store, **changes):
    return open_splits(TrainConfig(store=str(store), **changes))[0].reasons


def test_why_there_is_no_validation_or_test_video_is_told(real_store, tmp_path, capsys):
    assert _reasons(real_store) == {}
    assert _reasons(real_store, validation_share=0.0) == {
        "validation": "no validation video: --validation_share=0"
    }
    few = write_store(tmp_path / "few", {"train": (8, 4)})
    assert _reasons(few) == {
        "validation": "no validation video: 4 real training videos of a label, fewer than the 5 "
        "that are split",
        "test": "no test video: videos.json lists none",
    }
    one_place = write_store(tmp_path / "grouped", {"train": (5, 5), "test": (1, 1)})
    _with_groups(one_place, lambda i: "one place")
    assert _reasons(one_place)["validation"] == (
        "no validation video: each group has all real training videos of a label"
    )
    capsys.readouterr()
    splits, _ = open_splits(TrainConfig(store=str(few)))
    report_reasons(splits)
    assert capsys.readouterr().err == (
        "no validation video: 4 real training videos of a label, fewer than the 5 that are split; "
        "best_on_validation stays null, and video scores aren't calibrated\n"
        "no test video: videos.json lists none; the result has no measures\n"
    )


def test_test_videos_that_all_failed_to_encode_are_the_reason(tmp_path):
    source = Store(write_store(tmp_path / "s", {"train": (5, 5), "test": (1, 1)}))
    writer = StoreWriter(tmp_path / "t", source.manifest, source.videos)
    for video_id, row in source.rows.items():
        if video_id.startswith("test"):
            writer.quarantine(video_id, "no frame")
        else:
            writer.add(row, source.visual(video_id), source.text(video_id))
    assert writer.pack()
    assert _reasons(tmp_path / "t") == {"test": "no test video: none of 2 could be encoded"}


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (lambda i: False, "generated videos: all 4 normal ones are dropped by the filter and all 5 "
         "abnormal ones are dropped by the filter: the run trains on real videos alone"),
        (lambda i: "-0-" in i, "generated videos: all 5 abnormal ones are dropped by the filter"),
        (lambda i: i in ("syn-train-0-0", "syn-train-1-0"), None),
    ],
)  # fmt: skip
def test_a_filter_that_keeps_nothing_is_reported(
    real_store, synthetic_store, tmp_path, kept, reason, capsys
):
    path = tmp_path / "decisions.jsonl"
    ids = Store(synthetic_store).rows
    path.write_text("".join(json.dumps({"id": i, "keep": kept(i)}) + "\n" for i in ids))
    splits, _ = _open(real_store, synthetic_store=str(synthetic_store), synthetic_keep=str(path))
    assert splits.reasons == ({"synthetic": reason} if reason else {})
    report_reasons(splits)
    assert capsys.readouterr().err == (f"{reason}\n" if reason else "")


def test_generated_videos_that_are_all_of_kept_out_groups_are_reported(tmp_path, capsys):
    store = write_store(tmp_path / "s", {"train": (5, 5), "test": (1, 1)})
    generated = write_store(tmp_path / "g", {"train": (2, 2)}, source="synthetic", prefix="g-")
    _with_groups(generated, lambda i: "test-0-0" if "-1-" in i else None)
    reasons = _reasons(store, synthetic_store=str(generated), allow_shared_rows=True)
    assert reasons == {
        "synthetic": "generated videos: all 2 abnormal ones are of groups that are kept out"
    }
