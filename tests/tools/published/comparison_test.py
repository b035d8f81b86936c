"""Published numbers, goldens of other sizes, changed files and broken files."""

import functools
import json
import pathlib
import subprocess

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.config import DETECTORS
from tests.support.started import python
from tools.published import comparison

ROOT = pathlib.Path(__file__).parents[3]
GOLDEN = sorted((ROOT / "tests" / "golden").glob("*.npz"))
# Unlike the goldens, and each other, in every size and setting that a file may have. Widths recur
# where they needn't differ: small programs that depend on them alone are compiled once.
OTHER_SIZES = {
    "lap_one_pair_one_crop": ("lap", {
        "fusion": "add_up", "lambda_mode": "learnable", "pairs": 1, "crops": 1, "length": 64,
        "dim": 20, "text_dim": 12, "bank": 4, "top_k": 2,
    }),
    "lap_lambda_fixed": ("lap", {
        "lambda_value": 0.1, "pairs": 4, "crops": 2, "length": 20, "bank": 9, "top_k": 5,
        "eval_length": 64,
    }),
    "tevad_product": ("tevad", {
        "fusion": "product", "crops": 3, "length": 17, "dim": 20, "text_dim": 12,
        "learning_rate": 3e-3, "l2": 0.0,
    }),
    "rtfm_one_crop": ("rtfm", {
        "pairs": 4, "crops": 1, "length": 12, "dim": 20, "top_k": 1, "eval_length": 70,
    }),
    "ur_dmu_other_widths": ("ur_dmu", {
        "pairs": 2, "crops": 3, "length": 40, "dim": 10, "width": 48, "heads": 2, "head_width": 6,
        "memory_rows": 20,
    }),
    "ur_dmu_one_head": ("ur_dmu", {
        "pairs": 1, "crops": 1, "length": 15, "heads": 1, "head_width": 32, "eval_length": 17,
    }),
}  # fmt: skip


@functools.lru_cache
def _golden(name):
    from tools.published import goldens  # Published numbers are compared without PyTorch too.

    detector, settings = OTHER_SIZES[name]
    return goldens.golden(detector, **settings)


def _file(tmp_path, arrays):
    path = tmp_path / "golden.npz"
    np.savez(path, **arrays)
    return str(path)


def _out_of_bounds(errors):
    return {kind for kind, bound in comparison.BOUNDS.items() if not errors[kind] <= bound}


def _tampered(golden, name, share):
    """The golden, with the largest entry of one array increased by a share."""
    value = golden[name].copy()
    value.flat[np.abs(value).argmax()] *= 1 + share
    return golden | {name: value}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_reproduces_the_published_detectors(path):
    errors = comparison.compare(str(path))
    assert not _out_of_bounds(errors), errors


def test_there_is_a_golden_for_each_published_detector_here():
    # MIL-Rank's perceptron has no golden; its terms are checked by hand.
    published = {str(np.load(path)["meta/detector"]) for path in GOLDEN}
    assert published == set(DETECTORS) - {"mil_rank"}


@pytest.mark.parametrize("name", OTHER_SIZES)
def test_reproduces_the_twins_at_other_sizes(name, tmp_path):
    errors = comparison.compare(_file(tmp_path, _golden(name)))
    assert not _out_of_bounds(errors), errors


@pytest.mark.parametrize(
    ("name", "share", "kind"),
    [
        ("out/A_att", 1e-2, "outputs"),
        ("loss/kl_loss", 1e-2, "losses"),
        ("grad/Amemory.memory_block", 1e-2, "gradients"),
        ("param_after/encoder_mu.0.weight", 1e-3, "optimiser"),
        ("eval/snippet_scores_per_crop", 1e-2, "inference"),
    ],
)
def test_each_kind_of_tampering_is_noticed_by_its_own_number_alone(name, share, kind, tmp_path):
    tampered = _tampered(_golden("ur_dmu_other_widths"), name, share)
    errors = comparison.compare(_file(tmp_path, tampered))
    assert _out_of_bounds(errors) == {kind}
    assert errors[kind] == pytest.approx(share, rel=0.05)


def test_running_statistics_and_what_is_scored_after_the_step_are_checked(tmp_path):
    # Two in one file: the statistics are scored with, so their own tampering can't be alone.
    shares = {
        "param_after/Aggregate.conv_1.2.running_var": 1e-3,
        "eval/snippet_scores_after_step": 1e-2,
    }
    tampered = _golden("rtfm_one_crop")
    for name, share in shares.items():
        tampered = _tampered(tampered, name, share)
    errors = comparison.compare(_file(tmp_path, tampered))
    assert _out_of_bounds(errors) == {"optimiser", "inference"}
    measured = [errors["optimiser"], errors["inference"]]
    assert measured == pytest.approx(list(shares.values()), rel=0.05)


def test_what_only_lap_has_is_noticed_too(tmp_path):
    tampered = _golden("lap_one_pair_one_crop")
    shares = {
        "out/bag_score_normal": 2e-2, "loss/triplet_incl_gamma": 3e-2, "grad/VLR": 4e-2,
        "param_after/VLR": 5e-3, "eval/snippet_scores_longer_text": 6e-2,
    }  # fmt: skip
    for name, share in shares.items():
        tampered = _tampered(tampered, name, share)
    errors = comparison.compare(_file(tmp_path, tampered))
    measured = [errors[kind] for kind in comparison.BOUNDS]
    assert measured == pytest.approx(list(shares.values()), rel=0.1)


def _start(*arguments):
    return subprocess.Popen(
        [*python(), "-m", "tools.reference_step", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip


def test_the_command_prints_the_numbers_and_ends_with_whether_all_are_within_bounds(
    tmp_path,
):
    golden = _golden("ur_dmu_other_widths")
    (tmp_path / "good").mkdir()
    tampered = _tampered(golden, "loss/cost", 1e-2)
    paths = _file(tmp_path / "good", golden), _file(tmp_path, tampered)
    good, bad = [_start(f"--golden={path}") for path in paths]
    (printed, complaints), (bad_printed, bad_complaints) = good.communicate(), bad.communicate()
    assert good.returncode == 0, complaints
    errors = json.loads(printed)
    assert list(errors) == [*comparison.BOUNDS, "ok"] and errors["ok"] is True
    assert bad.returncode == 1, bad_complaints
    errors = json.loads(bad_printed)
    assert errors["ok"] is False and errors["losses"] == pytest.approx(1e-2, rel=0.05)


def test_the_command_ends_with_2_and_one_line_without_a_golden(tmp_path):
    absent, nothing = str(tmp_path / "absent.npz"), _file(tmp_path, {"a": np.zeros(2)})
    for argument, named in [
        ("--golden=", ["--golden"]),
        (f"--golden={absent}", [absent]),
        (f"--golden={nothing}", [nothing, "meta/detector"]),
    ]:
        command = _start(argument)
        printed, complaints = command.communicate()
        assert command.returncode == 2 and printed == "", complaints
        lines = complaints.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), complaints
        assert all(text in lines[0] for text in [*named, "expected", "found"])


def _assert_refused(path, *named):
    """Expects a UserError, of which run_command makes one line and exit status 2."""
    with pytest.raises(UserError) as caught:
        comparison.compare(str(path))
    for text in (str(path), "expected", "found", *named):
        assert text in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text"], ids=["empty", "cut off", "text"])
def test_a_file_that_is_no_npz_is_a_users_mistake(content, tmp_path):
    path = tmp_path / "golden.npz"
    path.write_bytes(content)
    _assert_refused(path)
    with pytest.raises(UserError) as caught:
        comparison.compare(str(path))
    assert "allow_pickle" not in str(caught.value)  # No advice to load it unsafely.


def test_one_array_is_no_npz(tmp_path):
    np.save(tmp_path / "golden.npy", np.zeros(3))
    _assert_refused(tmp_path / "golden.npy")


@pytest.mark.parametrize("detector", ["yolo", "mil_rank"])
def test_a_detector_that_was_not_published_is_a_users_mistake(detector, tmp_path):
    golden = _golden("rtfm_one_crop") | {"meta/detector": np.asarray(detector)}
    _assert_refused(_file(tmp_path, golden), "meta/detector", detector)


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("ur_dmu_other_widths", {"meta/l2": np.zeros(2)}, "meta/l2"),
        ("ur_dmu_other_widths", {"meta/learning_rate": np.asarray("fast")}, "meta/learning_rate"),
        ("rtfm_one_crop", {"meta/detector": np.asarray("ur_dmu")}, "meta/heads"),
        ("tevad_product", {"meta/detector": np.asarray("rtfm")}, "those of rtfm"),
        ("tevad_product", {"meta/fusion": np.asarray("concat")}, "fc0.weight"),
        ("lap_lambda_fixed", {"meta/lambda_mode": np.asarray("learnable")}, "param/VLR"),
        ("rtfm_one_crop", {"loss/other": np.zeros(())}, "other"),
    ],
)
def test_a_file_that_contradicts_itself_is_a_users_mistake(name, changes, named, tmp_path):
    _assert_refused(_file(tmp_path, _golden(name) | changes), named)


@pytest.mark.parametrize(
    "name",
    [
        "meta/detector", "meta/heads", "visual_abnormal", "param/encoder_mu.0.bias",
        "grad/encoder_mu.0.bias", "eval/snippet_scores", "out/",
    ],
)  # fmt: skip
def test_a_missing_array_is_a_users_mistake(name, tmp_path):
    golden = _golden("ur_dmu_other_widths")
    fewer = {key: value for key, value in golden.items() if not key.startswith(name)}
    assert len(fewer) < len(golden)
    _assert_refused(_file(tmp_path, fewer))


@pytest.mark.parametrize(
    "name",
    [
        "visual_abnormal", "noise", "param/encoder_mu.0.bias", "grad/encoder_mu.0.bias",
        "out/A_att", "eval/visual_crops",
    ],
)  # fmt: skip
def test_an_array_of_another_shape_is_a_users_mistake(name, tmp_path):
    golden = _golden("ur_dmu_other_widths")
    _assert_refused(_file(tmp_path, golden | {name: golden[name][..., :-1]}))
