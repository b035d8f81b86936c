"""Segments of training videos: their numbers, and that files give what memory gives."""

import errno
import os

import numpy as np
import pytest

from gvvad_jax import batches, parallel, segments, step
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.splits import open_splits
from gvvad_jax.standardisation import Standardisation, Standards
from tests.support.steps import SMALL
from tests.support.stores import DIM, TEXT_DIM
from tools.bench import sparse_store
from tools.bench.data import training_peak


def test_segments_by_hand():
    feat_TxD = np.arange(5.0)[:, None]
    # Borders floor(linspace(0, 5, 4)) = 0, 1, 3, 5.
    np.testing.assert_allclose(segments.segment(feat_TxD, 3)[:, 0], [0.0, 1.5, 3.5])
    # More segments than snippets: an empty one takes the snippet at its left border.
    np.testing.assert_allclose(segments.segment(feat_TxD[:2], 4)[:, 0], [0.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(segments.segment(feat_TxD[:1], 3)[:, 0], [0.0, 0.0, 0.0])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"^feat_TxD: expected at least one snippet"):
        segments.segment(np.zeros((0, 3)), 2)
    with pytest.raises(ValueError, match="^num_segments: expected at least 1, found 0"):
        segments.segment(np.zeros((2, 3)), 0)


def test_as_many_segments_as_snippets_change_nothing():
    feat_TxNxD = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(segments.segment(feat_TxNxD, 7), feat_TxNxD)


@pytest.fixture
def members(real_store):
    splits, _ = open_splits(TrainConfig(store=str(real_store)))
    return splits.train


def make_segments(members, folder=None, **changes):
    standard = Standards(
        Standardisation(np.full(DIM, 0.5, np.float32), np.full(DIM, 2, np.float32))
    )
    return segments.Segments(members, standard, TrainConfig(segments=4, **changes), folder)


def test_crops_are_kept_apart_and_visual_rows_standardised(members):
    segmented = make_segments(members)
    assert segmented.shapes == {"visual": (2, 4, DIM), "text": (4, TEXT_DIM)}
    # Padded, so that a few videos more or fewer have arrays of the same shape.
    assert segmented.padded_rows == segments.ROWS > len(members)
    assert segmented.num_bytes == segments.ROWS * 4 * 4 * (2 * DIM + TEXT_DIM)
    visual = members[3].store.visual(members[3].video.id)
    expected = (segments.segment(visual[:, 1], 4) - 0.5) / 2
    np.testing.assert_allclose(segmented.rows("visual", [3])[0, 1], expected, rtol=1e-6)
    text = segments.segment(members[3].store.text(members[3].video.id), 4)
    np.testing.assert_array_equal(segmented.rows("text", [3])[0], text)


def test_files_give_what_memory_gives_and_segment_once(members, tmp_path, monkeypatch):
    order = [3, 0, 3, 5]
    plain, kept = make_segments(members), make_segments(members, tmp_path / "kept")
    for kind in ("visual", "text"):
        expected = plain.rows(kind, order)
        np.testing.assert_array_equal(kept.rows(kind, order), expected)
        # The next run uses the files that a killed run left.
        monkeypatch.setattr(segments, "segment", None)
        np.testing.assert_array_equal(kept.rows(kind, order), expected)
        np.testing.assert_array_equal(
            make_segments(members, tmp_path / "kept").rows(kind, order), expected
        )
        monkeypatch.undo()


def test_files_of_other_videos_are_not_used(members, tmp_path):
    make_segments(members, tmp_path / "kept").rows("visual", [0])
    for others in (
        make_segments(members[1:], tmp_path / "kept"),
        make_segments(members, tmp_path / "kept"),
    ):
        first = make_segments(others._members).rows("visual", [0])
        np.testing.assert_array_equal(others.rows("visual", [0]), first)
    (tmp_path / "kept" / "of.txt").unlink()  # As a kill leaves an unfinished folder.
    (tmp_path / "kept" / "visual.npy").write_bytes(b"")
    rows = make_segments(members, tmp_path / "kept").rows("visual", [0])
    np.testing.assert_array_equal(rows, first)


@pytest.mark.parametrize("size", [None, 200])
def test_deleted_or_cut_files_are_written_again(members, tmp_path, size):
    expected = make_segments(members, tmp_path / "kept").rows("visual", [0, 1])
    path = tmp_path / "kept" / "visual.npy"
    path.unlink() if size is None else os.truncate(path, size)
    rows = make_segments(members, tmp_path / "kept").rows("visual", [0, 1])
    np.testing.assert_array_equal(rows, expected)


def test_a_full_disk_is_reported_before_it_is_written_to(members, tmp_path, monkeypatch):
    def fail(number):
        def fallocate(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "posix_fallocate", fallocate, raising=False)

    fail(errno.ENOSPC)
    num_bytes = 4 * len(members) * int(np.prod(make_segments(members).shapes["visual"]))
    with pytest.raises(UserError, match=f"visual.npy: .* {num_bytes} bytes .* free some"):
        make_segments(members, tmp_path / "kept").rows("visual", [0])
    fail(errno.EOPNOTSUPP)  # Some network disks can't reserve.
    make_segments(members, tmp_path / "kept").rows("visual", [0])


@pytest.mark.parametrize("mode", ["single", "mesh"])
@pytest.mark.parametrize("options", [{}, {"mixup": 0.5, "lambda_mode": "meta"}])
def test_a_batch_gathered_ahead_steps_like_resident_videos(
    members, tmp_path, mode, options, synthetic_store
):
    small = SMALL | {"segments": 4, "batch_size": 2}
    config = TrainConfig(detector="mil_rank", parallel=mode, **small, **options)
    drawn = batches.Batches(
        np.array([m.video.label for m in members]), np.zeros(len(members), bool), config,
        held_out_V=np.arange(len(members)) % 3 == 0 if options else None,
    )  # fmt: skip
    fixed = segments.Fixed(synthetic_V=np.arange(len(members)) % 2 == 0, bank_KxE=None)
    losses = []
    for kind, folder in ((segments.Resident, None), (segments.Ahead, tmp_path / "kept")):
        runner = parallel.Runner(config, step.init_state(config, DIM, TEXT_DIM))
        kept = segments.Segments(members, Standards(), config, folder)
        feed = kind(kept, fixed, drawn, runner)
        # Feeds allow any order of steps.
        losses.append([float(runner.step(*feed.at(n))["loss"]) for n in (2, 3, 4, 1)])
        feed.close()
    assert losses[0] == losses[1]


def _trained(path, workdir, videos):
    """Peak memory in megabytes of training on a store of zeros."""
    path = sparse_store.write(path, videos, dtype="float16")
    flags = [f"--store={path}", f"--workdir={workdir}", "--detector=mil_rank", "--steps=4"]
    flags += ["--batch_size=4", "--segments=8", "--validation_share=0", "--device_gigabytes=0"]
    return training_peak(*flags) / 1e6


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    """Training sets of a tenth and of ten times the bytes of UCF-Crime's, as sparse files."""
    small = _trained(tmp_path / "small", tmp_path / "w1", 160)
    large = _trained(tmp_path / "large", tmp_path / "w2", 16_000)
    # 120 GB of features more; what grows is a line of the index for each video.
    assert large < small + 150
