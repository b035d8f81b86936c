"""Golden files: the twins give the numbers measured on the published detectors."""

import pathlib

import numpy as np
import pytest
import torch

from tools.published import goldens, twin_losses

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN = sorted((pathlib.Path(__file__).parents[2] / "golden").glob("*.npz"))
BOUNDS = {"out": 1e-5, "loss": 1e-5, "eval": 1e-5, "grad": 1e-4, "param_after": 1e-5}
# Below this an error is rounding: a bias in front of a BatchNorm has no other gradient.
FLOOR = 1e-6
INPUTS = ("eval/visual", "eval/text", "eval/visual_crops")
# Small sizes, computed anew in each test.
SMALL = {"pairs": 2, "crops": 2, "dim": 16, "text_dim": 16, "eval_length": 9}


def _load(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _error(computed, expected):
    """Largest difference, relative to the largest value; zero within the floor."""
    assert computed.shape == expected.shape and computed.dtype == expected.dtype
    difference = np.abs(computed.astype(np.float64) - expected).max(initial=0.0)
    largest = np.abs(expected).max(initial=FLOOR)
    return difference / largest if difference > FLOOR else 0.0


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_reproduces_the_published_detectors(path):
    golden = _load(path)
    measured = [name for name in golden if name.split("/")[0] in BOUNDS and name not in INPUTS]
    computed = goldens.measure(golden)
    assert sorted(computed) == sorted(measured)
    # BatchNorm's running statistics are among param_after.
    errors = {name: _error(computed[name], golden[name]) for name in measured}
    wrong = {name: e for name, e in errors.items() if not e <= BOUNDS[name.split("/")[0]]}
    assert not wrong


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_makes_files_like_the_given_ones(path):
    given = _load(path)
    detector = str(given["meta/detector"])
    settings = {"length": given["visual_normal"].shape[-2]}
    settings["crops"] = given["eval/visual"].shape[1] if "eval/visual" in given else 10
    for name in ("fusion", "lambda_mode"):
        if f"meta/{name}" in given:
            settings[name] = str(given[f"meta/{name}"])
    arrays = goldens.golden(detector, **settings)
    assert sorted(arrays) == sorted(given)
    for name, value in given.items():
        if value.dtype.kind == "U":
            assert arrays[name] == value
        else:
            assert (arrays[name].shape, arrays[name].dtype) == (value.shape, value.dtype), name
    assert arrays["meta/learning_rate"] == given["meta/learning_rate"]
    assert arrays["meta/l2"] == given["meta/l2"]


@pytest.mark.parametrize("detector", goldens.DETECTORS)
def test_nothing_is_zero_by_accident(detector):
    arrays = goldens.golden(detector, **SMALL)
    for name, value in arrays.items():
        if name.startswith("grad/") and not name.endswith("non_local.W.0.bias"):
            assert np.abs(value).max() > FLOOR, name
        if name.startswith("loss/"):
            assert value > 0, name


def test_enough_snippets_are_suspected_that_no_negative_is_a_tie():
    for bank in (2, 20):
        arrays = goldens.golden("lap", bank=bank, **SMALL)
        text_BxTxE = torch.tensor(arrays["text_abnormal"][:, 0])
        assert twin_losses.suspected(text_BxTxE, torch.tensor(arrays["bank"])).sum() >= bank


def test_a_seed_decides_everything():
    one, same = (goldens.golden("tevad", seed=3, **SMALL) for _ in range(2))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    other = goldens.golden("tevad", seed=4, **SMALL)
    assert not np.array_equal(one["loss/cost"], other["loss/cost"])


def test_ties_go_to_the_lowest_index():
    arrays = goldens.golden("lap", bank=4, **SMALL)
    # One suspected snippet of 64, so three negatives are chosen among equals.
    arrays["text_abnormal"][:] = arrays["text_normal"][:] = -arrays["bank"].sum(axis=0)
    arrays["text_abnormal"][1, :, 7] = arrays["bank"][2]
    model, batch = goldens.from_golden(arrays).train(), goldens.inputs(arrays)
    outputs = model(batch)
    computed = twin_losses.losses(model, outputs, batch)["triplet_incl_gamma"]
    normal_M, abnormal_M = outputs["snippet_scores"].reshape(2, -1)
    rows_n, rows_a = outputs["features"].transpose(1, 2).reshape(2, len(normal_M), -1)
    places = (normal_M.argsort()[:4], abnormal_M.argsort()[:4], torch.tensor([32 + 7, 0, 1, 2]))
    triple = [rows[i] for rows, i in zip((rows_n, rows_a, rows_a), places, strict=True)]
    torch.testing.assert_close(computed, 0.1 * torch.nn.functional.triplet_margin_loss(*triple))


def test_a_crop_is_a_sample_of_its_own_up_to_the_scores_of_ur_dmu():
    arrays = goldens.golden("ur_dmu", **SMALL)
    model, batch = goldens.from_golden(arrays).train(), goldens.inputs(arrays)
    twice = {name: torch.stack([x, x], dim=1) for name, x in batch.items() if name != "noise"}
    twice["noise"] = batch["noise"].repeat_interleave(2, dim=0)
    computed = twin_losses.losses(model, model(twice), twice)
    for name, value in twin_losses.losses(model, model(batch), batch).items():
        torch.testing.assert_close(computed[name], value)


@pytest.mark.parametrize("detector", goldens.DETECTORS)
def test_a_training_step_leads_where_the_golden_says(detector):
    arrays = goldens.golden(detector, **SMALL)
    model = goldens.from_golden(arrays).train()
    rate, l2 = float(arrays["meta/learning_rate"]), float(arrays["meta/l2"])
    adam = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=l2)
    computed = twin_losses.train_step(model, adam, goldens.inputs(arrays))
    assert computed["cost"].item() == pytest.approx(float(arrays["loss/cost"]))
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), arrays[f"param_after/{name}"])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="expected one of rtfm, tevad, lap, ur_dmu"):
        goldens.golden("mil_rank")
    with pytest.raises(ValueError, match="expected one of concat, add, product, add_up"):
        goldens.golden("lap", fusion="sum")
