"""Detectors saved to be shared, and loaded: the same scores, nothing private, strict checks."""

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy

import gvvad_jax as gv
from gvvad_jax.config import TrainConfig
from gvvad_jax.sharing import files
from gvvad_jax.standardisation import Standardisation
from gvvad_jax.store import digests
from tests.support.models import make_model, random_features
from tests.support.stores import DIM


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with text, standardisation and calibration, and the folder it was saved to."""
    model, folder = make_model("lap"), tmp_path_factory.mktemp("shared") / "model"
    model.save_pretrained(folder, license="apache-2.0")
    return model, folder


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved[1], tmp_path / "copy")


def edit(folder, change):
    """Changes config.json and gives it the digest of what it holds then."""
    content = json.loads((folder / "config.json").read_text())
    del content["sha256"]
    change(content)
    content["sha256"] = digests.of_json(content)
    (folder / "config.json").write_text(json.dumps(content))


def replace_weights(folder, change):
    """Changes the arrays, with digests that fit."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    change(tensors)
    content = safetensors.numpy.save(tensors)
    (folder / "model.safetensors").write_bytes(content)
    edit(folder, lambda c: c["files"].update({"model.safetensors": digests.of_bytes(content)}))


def test_a_saved_model_scores_the_same_to_the_last_bit(saved):
    model, folder = saved
    features = random_features(model, (1, 5, 40))
    again = gv.load(folder)
    expected, scores = model.score(features), again.score(features)
    for name, scores_T in expected.items():
        np.testing.assert_array_equal(scores[name], scores_T)
    assert again.calibration == model.calibration
    assert again.calibrated_scores(scores) == model.calibrated_scores(expected)
    assert again.manifest == model.manifest and again.normal_videos == {}
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("detector", ["rtfm", "tevad", "ur_dmu", "mil_rank"])
def test_every_detector_keeps_its_weights(detector, tmp_path):
    model = make_model(detector, standardised=detector == "tevad", calibrated=False)
    model = dataclasses.replace(
        model, seen=Standardisation(np.ones(DIM, np.float32), np.full(DIM, 2, np.float32))
    )
    model.save_pretrained(tmp_path / "m", license="mit")
    again = gv.load(tmp_path / "m")
    leaves, expected = (files._tensors(files_of(m)) for m in (again, model))
    assert leaves.keys() == expected.keys() and "seen/std" in leaves
    for name, array in expected.items():
        np.testing.assert_array_equal(leaves[name], array)
    assert again.calibration is None
    assert (again.standard.mean_D is None) == (model.standard.mean_D is None)


def files_of(model):
    names = ("config", "manifest", "standard", "seen", "variables", "calibration", "facts")
    return files.Shared(**{name: getattr(model, name) for name in names})


def test_a_run_is_shared_with_its_measures_and_bank_and_without_paths_or_ids(
    trained, real_store, tmp_path
):
    config, result = trained("lap")
    bank = {"bank": "own", "vocabulary": "plain", "version": 1, "encoder": "words",
            "sha256": digests.of_file(real_store / "bank.npy"),
            "prompts": [{"class": "Arson", "phrase": "a fire"}] * 3}  # fmt: skip
    model = gv.load(config.workdir)
    (real_store / "bank.json").write_text(json.dumps(bank))
    try:
        measures = model.evaluate(real_store, options=gv.MeasureOptions(bootstrap=50))
        model.save_pretrained(
            tmp_path / "m", license="cc-by-4.0", data="Six scenes.", measures=measures
        )
    finally:
        (real_store / "bank.json").unlink()
    again, store = gv.load(tmp_path / "m"), gv.Store(real_store)
    expected, scores = model.score(store), again.score(store)
    assert all(np.array_equal(scores[i], expected[i]) for i in expected)
    assert json.loads((tmp_path / "m/bank.json").read_text()) == bank
    assert (tmp_path / "m/bank.npy").read_bytes() == (real_store / "bank.npy").read_bytes()
    card = (tmp_path / "m/README.md").read_text()
    low, high = measures["intervals"]["auc"]
    auc = f"| frame AUC | {measures['auc']:.4g} | {low:.4g} to {high:.4g} |"
    assert auc in card and "50 draws of 6 groups" in card and "Six scenes." in card
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: gvvad-jax\n")
    assert again.facts.measures["auc"] == result.last["auc"] and again.facts.step == 12
    everything = b"".join(p.read_bytes() for p in (tmp_path / "m").iterdir())
    private = [config.workdir, str(real_store), os.path.expanduser("~/"), config.synthetic_store,
               *gv.Store(real_store), *model.normal_videos.values()]  # fmt: skip
    assert [text for text in private if text.encode() in everything] == []


def test_settings_that_may_hold_paths_are_not_shared():
    for field in dataclasses.fields(TrainConfig):
        free_text = field.type is str and not field.metadata.get("choices")
        assert free_text == (field.name in files.PRIVATE), field.name


def test_a_shared_model_is_shared_again_as_it_was(saved, copied):
    gv.load(saved[1]).save_pretrained(copied)
    for path in saved[1].iterdir():
        assert (copied / path.name).read_bytes() == path.read_bytes(), path.name


def _drop(name):
    return lambda tensors: tensors.pop(name)


def _put(name, array):
    return lambda tensors: tensors.update({name: array})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("params/head/fc1/bias"), r"one that lacks 'params/head/fc1/bias'"),
        (_put("extra", np.zeros(1, np.float32)), r"one that has 'extra'"),
        (_drop("standardisation/std"), r"lacks 'standardisation/std'"),
        (_put("params/head/fc1/bias", np.zeros(9, np.float32)), r"\[8\], found float32 \[9\]"),
        (_put("params/head/fc1/bias", np.zeros(8, np.int32)), r"float32 \[8\], found int32 \[8\]"),
        (_put("standardisation/std", np.ones(DIM)), r"float32 \[12\], found float64 \[12\]"),
        (_put("params/head/fc1/bias", np.zeros(1 << 20, np.float32)), "found 4 MiB, more than"),
    ],
)  # fmt: skip
def test_other_arrays_than_the_settings_describe_are_one_line(copied, change, message):
    replace_weights(copied, change)
    with pytest.raises(gv.UserError, match=f"model.safetensors: .*{message}") as caught:
        gv.load(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["config"].update(detector="other"), "--detector: expected one of"),
        (lambda c: c["config"].update(mtn_channels=1 << 62), "expected"),
        (lambda c: c["config"].update(workdir="/tmp"), "the setting workdir, which isn't shared"),
        (lambda c: c["config"].update(newer_setting=1), "newer_setting"),
        (lambda c: c["manifest"].pop("encoder"), "encoder"),
        (lambda c: c.update(format_version=2), "format_version|enum"),
        (lambda c: c.update(library="transformers"), "library|enum"),
        (lambda c: c["files"].update({"../../x": "0"}), "expected digests of model.safetensors"),
        (lambda c: c["calibration"].update(temperature="hot"), "temperature"),
    ],
)
def test_other_settings_are_one_line(copied, change, message):
    edit(copied, change)
    with pytest.raises(gv.UserError, match=message) as caught:
        gv.load(copied)
    assert "\n" not in str(caught.value)


def test_damage_is_one_line(copied, tmp_path):
    config, weights = copied / "config.json", copied / "model.safetensors"
    content = config.read_text()
    config.write_text(content.replace('"step": 7', '"step": 8'))
    with pytest.raises(gv.UserError, match="config.json: expected the values that it was written"):
        gv.load(copied)
    config.write_text(content)
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(gv.UserError, match=r"the weights that config.json has the digest of"):
        gv.load(copied)
    weights.write_bytes(b"\x80\x04cos\nsystem\n")
    edit(copied, lambda c: c["files"].update({"model.safetensors": digests.of_file(weights)}))
    with pytest.raises(gv.UserError, match="expected weights as safetensors, found something else"):
        gv.load(copied)
    weights.unlink()
    with pytest.raises(gv.UserError, match="expected a detector's weights, found none"):
        gv.load(copied)
    os.mkfifo(weights)
    with pytest.raises(gv.UserError, match="found a pipe"):
        gv.load(copied)
    with pytest.raises(gv.UserError, match="expected no choice of a checkpoint"):
        gv.load(copied, "best_on_validation")


@pytest.mark.parametrize("license", ["", "Apache 2.0", "x\ntags: y"])
def test_a_licence_is_never_guessed(saved, tmp_path, license):
    with pytest.raises(gv.UserError, match="license: expected a licence's identifier"):
        saved[0].save_pretrained(tmp_path / "m", license=license)
    assert not (tmp_path / "m").exists()


def test_nothing_else_is_overwritten_and_a_stopped_save_leaves_the_old_one(
    saved, copied, tmp_path, monkeypatch
):
    model, _ = saved
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_text("a")
    with pytest.raises(gv.UserError, match="folder=.*other files"):
        model.save_pretrained(tmp_path / "photos", license="mit")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(gv.UserError, match="expected a folder of a shared detector"):
        model.save_pretrained(tmp_path / "bert", license="mit")
    before = {p.name: p.read_bytes() for p in copied.iterdir()}
    written = files.write_atomically

    def full(path, content):
        if pathlib.Path(path).name == "README.md":
            raise OSError(28, "No space left on device", str(path))
        written(path, content)

    monkeypatch.setattr(files, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        make_model("rtfm").save_pretrained(copied, license="mit")
    assert {p.name: p.read_bytes() for p in copied.iterdir()} == before
    monkeypatch.undo()
    (copied / ".git").mkdir()  # A clone of the Hub's repository.
    make_model("rtfm").save_pretrained(copied, license="mit")
    assert gv.load(copied).config.detector == "rtfm" and (copied / ".git").exists()


def test_a_path_in_the_encoders_name_is_not_published(saved, tmp_path):
    model = saved[0]
    encoder = model.manifest.encoder | {"id": "clip-/home/me/weights"}
    model = dataclasses.replace(
        model, manifest=dataclasses.replace(model.manifest, encoder=encoder)
    )
    with pytest.raises(gv.UserError, match="expected encoder.id without a path"):
        model.save_pretrained(tmp_path / "m", license="mit")


def test_what_scores_otherwise_than_its_weights_is_not_shared(saved, tmp_path):
    model = saved[0]

    def corrected(*arguments):
        return model.score_step(*arguments) ** 2

    with pytest.raises(gv.UserError, match="found one with a correction learned from feedback"):
        dataclasses.replace(model, score_step=corrected).save_pretrained(tmp_path / "m")
    same = dataclasses.replace(model, score_step=lambda *arguments: model.score_step(*arguments))
    same.save_pretrained(tmp_path / "m", license="mit")
