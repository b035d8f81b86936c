"""Twins of generated videos, as stores name them; tests of their batches are in batches_test.py."""

import dataclasses
import json

import numpy as np

from gvvad_jax.config import TrainConfig
from gvvad_jax.pairing import twins_of
from gvvad_jax.run.inputs import made_of, open_inputs
from gvvad_jax.splits import members_of, open_splits
from gvvad_jax.store.reader import Store
from tests.support.stores import write_store


def _store(path, counts=(3, 3), **changes):
    return write_store(path, {"train": counts}, source="synthetic", twins=True, **changes)


def _ids(members, twins_V):
    """Pairs of (an abnormal video, its twin)."""
    return {
        (members[place].video.id, members[twin].video.id)
        for place, twin in enumerate(twins_V)
        if twin >= 0
    }


def test_twins_are_those_that_the_rows_name_within_a_store(tmp_path):
    # Both stores name their videos alike, but for the prefix; "b" has one normal video only.
    stores = [Store(_store(tmp_path / "a", prefix="a-")), Store(_store(tmp_path / "b", (1, 3)))]
    members = [member for store in stores for member in members_of(store, None)]
    assert _ids(members, twins_of(members)) == {
        ("a-train-1-0", "a-train-0-0"),
        ("a-train-1-1", "a-train-0-1"),
        ("a-train-1-2", "a-train-0-2"),
        ("train-1-0", "train-0-0"),
    }
    # A twin that another store has isn't one, nor one that isn't among the members.
    others = [m for m in members if m.video.label or m.video.id.startswith("a-")]
    assert ("train-1-0", "train-0-0") not in _ids(others, twins_of(others))
    kept = [m for m in members if m.video.id != "a-train-0-1"]
    assert len(_ids(kept, twins_of(kept))) == 3


def test_a_run_pairs_twins_that_the_filter_kept(real_store, tmp_path, capsys):
    store = _store(tmp_path / "g", (4, 4), prefix="g-", seed=7)
    keep = tmp_path / "decisions.jsonl"
    lines = [json.dumps({"id": i, "keep": i != "g-train-0-2"}) for i in Store(store).rows]
    keep.write_text("\n".join(lines))
    config = TrainConfig(
        store=str(real_store), synthetic_store=str(store), synthetic_keep=str(keep),
        detector="mil_rank", batch_size=4, synthetic_share=0.5, pair_twins=True, train_crops=1,
    )  # fmt: skip
    inputs = open_inputs(config)
    inputs.drawn.report()
    assert "1 of 4 generated abnormal videos are paired as drawn" in capsys.readouterr().err
    paired = set()
    for step in range(20):
        for normal, abnormal in inputs.drawn.at(step).videos_Bx2[2:]:
            paired.add((inputs.members[abnormal].video.id, inputs.members[normal].video.id))
    twins = {(f"g-train-1-{i}", f"g-train-0-{i}") for i in (0, 1, 3)}
    assert twins <= paired and {a for a, _ in paired - twins} == {"g-train-1-2"}
    # Twins are part of what a run is begun with, if it pairs them.
    splits, stores = open_splits(config)
    begun = made_of(config, splits, stores, None)["splits"]
    changed = dict(stores[1].rows)
    row = changed["g-train-1-0"]
    changed["g-train-1-0"] = dataclasses.replace(row, twin="g-train-0-1")
    stores[1].rows = changed
    assert made_of(config, splits, stores, None)["splits"] != begun
    plain = dataclasses.replace(config, pair_twins=False)
    before = made_of(plain, splits, stores, None)["splits"]
    changed["g-train-1-0"] = row
    assert made_of(plain, splits, stores, None)["splits"] == before


def test_a_store_without_twins_changes_nothing(real_store, synthetic_store):
    config = TrainConfig(store=str(real_store), synthetic_store=str(synthetic_store), batch_size=4)
    plain = open_inputs(dataclasses.replace(config, feature_group="visual"))
    paired = open_inputs(dataclasses.replace(config, feature_group="visual", pair_twins=True))
    for step in range(5):
        np.testing.assert_array_equal(
            plain.drawn.at(step).videos_Bx2, paired.drawn.at(step).videos_Bx2
        )
    assert paired.drawn.notes()[-1].startswith("--pair_twins: 5 of 5 generated abnormal videos")
