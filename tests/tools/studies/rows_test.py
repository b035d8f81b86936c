"""Rows of a study: the CSV, and one training run."""

import json

import pytest

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.store.reader import Store
from tests.support.stores import write_store
from tools.studies import rows
from tools.studies.grid import Cell

CELL = Cell("world", 0, 1, 30, 6, "0.5", "world", "SSLS 0.5, filter", "rtfm")


def measures(**values):
    return dict.fromkeys(rows.MEASURES) | values


def test_a_table_is_read_back_to_five_digits_without_paths(tmp_path):
    path = tmp_path / "new" / "t.csv"
    assert rows.read(path) == []
    rows.write(path, [rows.Row(CELL, "12345678", measures(auc=0.912345678, steps=150))])
    header, line = path.read_text().splitlines()
    assert header.startswith("footage,draw,seed,normal,abnormal,gap,clips,arm,detector,flags,auc,")
    assert line.startswith('world,0,1,30,6,0.5,world,"SSLS 0.5, filter",rtfm,12345678,0.91235,,')
    assert rows.read(path) == [rows.Row(CELL, "12345678", measures(auc=0.91235, steps=150))]
    assert str(tmp_path) not in path.read_text()
    # A table of an earlier version lacks later measures.
    header, line = (",".join(text.split(",")[:-1]) for text in path.read_text().splitlines())
    path.write_text(f"{header}\n{line}\n")
    assert rows.read(path) == [rows.Row(CELL, "12345678", measures(auc=0.91235, steps=150))]


def test_what_is_no_table_is_one_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="t.csv: expected the columns footage, .*, found a, b;"):
        rows.read(path)
    rows.write(path, [rows.Row(CELL, "12345678", measures())])
    path.write_text(path.read_text() + "world,0\n")
    with pytest.raises(UserError, match="line 3: expected the values of .*; remove the line"):
        rows.read(path)


def test_lambda_is_the_last_one_and_gradients_are_means(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "lambda": 0.5, "lambda_gradient": 1.0}\n'
        '{"step": 2, "lambda": 0.25, "lambda_gradient": 3.0}\n'
        '{"step": 3, "lambda": 0.125, "lambda_gradient": -1.0}\n'
        '{"step": 3, "validation_auc": null}\n'
    )
    empty = dict.fromkeys(("grad_norm_real", "grad_norm_synthetic", "grad_cosine"))
    assert rows.logged(path, True) == empty | {
        "lambda": 0.125, "lambda_half": 0.25, "lambda_gradient": 1.0,
        "lambda_gradient_positive": pytest.approx(2 / 3),
    }  # fmt: skip
    assert set(rows.logged(path, False).values()) == {None}


def test_a_row_is_a_run(tmp_path):
    splits = {"train": (3, 3), "test": (2, 2)}
    write_store(tmp_path / "real", splits, prefix="r")
    write_store(tmp_path / "made", {"train": (3, 3)}, source="synthetic", seed=1, prefix="s")
    kept = [{"id": i, "keep": number > 0} for number, i in enumerate(Store(tmp_path / "made").rows)]
    (tmp_path / "keep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    dropped = Store(tmp_path / "made").videos.videos[kept[0]["id"]].label
    config = TrainConfig(
        store=str(tmp_path / "real"), synthetic_store=str(tmp_path / "made"),
        synthetic_keep=str(tmp_path / "keep.jsonl"), workdir=str(tmp_path / "run"),
        detector="mil_rank", feature_group="visual", segments=4, batch_size=2, steps=2,
        validation_share=0.0, log_every=1, compilation_cache="", lambda_value=0.25,
    )  # fmt: skip
    row = rows.train(config)
    assert set(row) == set(rows.MEASURES)
    assert 0 <= row["auc"] <= 1 and row["lambda"] == 0.25 and row["steps"] == 2
    labels = [video.label for video in Store(tmp_path / "made").videos.videos.values()]
    assert row["generated_normal"] == labels.count(0) - (dropped == 0)
    assert row["generated_abnormal"] == labels.count(1) - (dropped == 1)
    assert row["lambda_gradient"] > 0 and row["grad_cosine"] is None and row["cpu_seconds"] > 0
