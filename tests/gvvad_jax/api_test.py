"""The public API, as `import gvvad_jax as gv` offers it."""

import dataclasses
import importlib
import json
import os
import pathlib
import pkgutil
import pty
import subprocess
import sys
import types

import numpy as np
import pytest

import gvvad_jax as gv
from gvvad_jax.measures import describe
from tests.support.stores import CROPS, DIM, TEXT_DIM

ROOT = pathlib.Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def test_no_name_is_a_modules():
    for _, name, _ in pkgutil.walk_packages(gv.__path__, "gvvad_jax."):
        if not name.endswith("__main__"):
            importlib.import_module(name)
    for name in gv.__all__:
        assert not isinstance(getattr(gv, name), types.ModuleType), name
        assert name in dir(gv)
    assert all(callable(getattr(gv, name)) for name in gv.__all__ if name != "__version__")
    assert set(gv._MODULES) | {"__version__"} == set(gv.__all__)
    with pytest.raises(AttributeError, match="no attribute 'train_model'"):
        gv.train_model  # noqa: B018


def test_the_import_is_light_and_the_version_that_of_the_package():
    code = (
        "import sys, gvvad_jax as gv; heavy = ('jax', 'numpy', 'absl')\n"
        "print([m for m in heavy if m in sys.modules], gv.__version__)\n"
        "gv.TrainConfig, gv.Store, gv.StoreWriter, gv.measure\n"
        "print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    version = importlib.metadata.version("gvvad-jax")
    assert done.stdout.splitlines() == [f"[] {version}", "False"]
    assert (pathlib.Path(gv.__file__).parent / "py.typed").exists()


def test_every_call_after_every_import(trained, real_store, tmp_path):
    """From a run to measures; the commands' own results are in train_test and score_test."""
    test_no_name_is_a_modules()
    config, result = trained("lap")
    assert isinstance(config, gv.TrainConfig) and isinstance(result, gv.Result)
    again = gv.fit(config)
    assert again.last == result.last and again.steps == result.steps == config.steps
    model, store = gv.load(result.workdir), gv.Store(real_store)
    assert model.evaluate(store) == model.evaluate(str(real_store)) == result.last
    listed = model.evaluate(store, annotations=real_store / "videos.json")
    assert listed == result.last
    assert model.evaluate(store, split="train")["videos"] == 15
    scores = model.score(store)
    assert list(scores) == list(store)
    with gv.StoreWriter.for_features(tmp_path / "s", dim=3) as writer:
        writer.add_video("a", np.ones((2, 3)), label=0, split="test")
    assert gv.measure({"a": np.zeros(2)}, {"a": np.array([0, 1])})["auc"] == 0.5


def test_a_result_is_what_result_json_says(trained):
    _, result = trained("lap")
    assert json.loads((result.workdir / "result.json").read_text()) == result.to_json()
    asked = dataclasses.replace(result, best_on_test=None, reports_best_on_test=True)
    assert list(asked.to_json()) == [
        "last", "best_on_validation", "best_on_test", "probe", "calibration", "reasons",
        "steps", "provenance",
    ]  # fmt: skip
    with pytest.raises(gv.UserError, match="config: expected a TrainConfig, found dict"):
        gv.fit({"store": "s"})


def _visual(length=5, crops=CROPS, dim=DIM):
    return RNG.normal(size=(length, crops, dim)).astype(np.float32)


def _text(length=5, dim=TEXT_DIM):
    return RNG.normal(size=(length, dim)).astype(np.float32)


def test_features_are_scored_as_arrays_pairs_or_a_store(trained, real_store):
    model, store = gv.load(trained("rtfm")[0].workdir), gv.Store(real_store)
    of_store = model.score(store)
    of_arrays = model.score({i: video.visual_TxNxD for i, video in store.items()})
    of_pairs = model.score({i: (v.visual_TxNxD, v.text_TxE) for i, v in store.items()})
    for video_id, scores_T in of_store.items():
        assert (
            scores_T.dtype == np.float32 and scores_T.shape == store[video_id].times_Tx2.shape[:1]
        )
        np.testing.assert_array_equal(scores_T, of_arrays[video_id])
        np.testing.assert_array_equal(scores_T, of_pairs[video_id])
    assert model.score({}) == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (_visual()[0, 0], r"expected an array \[T, 12\] or \[T, crops, 12\], found \[12\]"),
        (_visual(dim=4), r"expected an array \[T, 12\] .* found \[5, 2, 4\]"),
        (_visual()[:, 0], "expected .* 2 crops as in training"),
        (_visual(crops=3), "expected .* 2 crops as in training"),
        (_visual().astype(complex), r"expected .* of numbers, found complex"),
        (np.array(["a"]), r"expected .* of numbers, found <U1"),
        (_visual() * np.nan, "expected finite features, found NaN"),
        (_visual(), r"expected text, an array \[5, 8\].* found none"),
        ((_visual(), None), r"expected text, an array \[5, 8\].* found none"),
        ((_visual(), _text(dim=3)), r"expected text, an array \[5, 8\].* found \[5, 3\]"),
        ((_visual(), _text(2)), r"expected text, an array \[5, 8\].* found \[2, 8\]"),
        ((_visual(), _text() * np.inf), "expected finite features"),
        ((_visual(), _text(), _text()), r"expected \(visual, text\), found 3 values"),
    ],
)
def test_features_that_do_not_fit_name_the_argument_and_the_video(trained, value, message):
    model = gv.load(trained("lap")[0].workdir)
    with pytest.raises(gv.UserError, match=f"features: video 'b': {message}") as caught:
        model.score({"a": (_visual(), _text()), "b": value})
    assert "\n" not in str(caught.value)


def test_arguments_of_other_types_are_named(trained, tmp_path):
    model = gv.load(trained("lap")[0].workdir)
    with pytest.raises(gv.UserError, match="features: expected arrays by video id .* ndarray"):
        model.score(_visual())
    with pytest.raises(gv.UserError, match="store: expected a Store or its path, found dict"):
        model.evaluate({})
    with pytest.raises(gv.UserError, match="expected videos of split nowhere"):
        model.evaluate(gv.Store(trained("lap")[0].store), split="nowhere")
    with pytest.raises(gv.UserError, match="path: expected the folder of a store, found int"):
        gv.Store(3)
    with pytest.raises(gv.UserError, match="checkpoint: expected one of last, .* found 'first'"):
        gv.load(model.config.workdir, "first")
    with pytest.raises(gv.UserError, match=r"model.json\), found none"):
        gv.load(tmp_path)


def test_measures_by_hand():
    scores = {"a": np.array([0.1, 0.9, 0.8, 0.2]), "b": [0.3, 0.85], "unused": np.zeros(1)}
    measures = gv.measure(scores, {"a": [0, 1, 1, 0], "b": [False, False]}, {"a": "Arson"})
    # Positives 0.9, 0.8 against 0.1, 0.2, 0.3, 0.85: 4 + 3 of 8.
    assert measures["auc"] == 7 / 8 and measures["per_class"] == {"Arson": 7 / 8}
    assert (measures["videos"], measures["frames"], measures["far"]) == (2, 6, 1 / 4)
    assert describe(measures).startswith("AUC 0.8750, AP ")
    assert gv.measure({"b": [0.5]}, {"b": [0]})["auc"] is None


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        ([0.5], {"a": [1]}, "scores: expected arrays by video id, found list"),
        ({"a": [0.5]}, [1], "truth: expected arrays by video id, found list"),
        ({"a": [0.5]}, {}, "truth: expected test videos, found none"),
        ({"a": [0.5]}, {"a": [2]}, "truth: video 'a': expected labels 0 and 1"),
        ({"a": [0.5]}, {"a": [[1]]}, "truth: video 'a': expected labels 0 and 1"),
        ({"a": [0.5]}, {"b": [1]}, "scores: expected scores of video 'b', found none"),
        ({"a": [0.5]}, {"a": [1, 0]}, "scores: video 'a': expected 2 frames as in truth"),
        ({"a": [np.nan]}, {"a": [1]}, "scores: video 'a': expected finite scores"),
        ({"a": ["high"]}, {"a": [1]}, "scores: video 'a': expected finite scores"),
    ],
)
def test_what_cannot_be_measured_names_the_argument_and_the_video(scores, truth, message):
    with pytest.raises(gv.UserError, match=message):
        gv.measure(scores, truth)


def _on_a_terminal(*command):
    """Standard output and standard error of a command whose standard error is a terminal."""
    ours, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=terminal
    ) as process:
        os.close(terminal)
        shown = b""
        try:
            while chunk := os.read(ours, 1024):
                shown += chunk
        except OSError:  # How Linux says that the other end is closed.
            pass
        output = process.stdout.read().decode()
    os.close(ours)
    assert process.returncode == 0, shown
    return output, shown.decode()


def test_on_a_terminal_commands_end_with_a_summary(trained, real_store):
    config, result = trained("rtfm")
    flagfile = f"--flagfile={config.workdir}/config.flags"
    output, shown = _on_a_terminal("gvvad_jax.train", flagfile, f"--workdir={config.workdir}")
    assert json.loads(output)["last"] == result.last
    auc = f"AUC {result.last['auc']:.4f}"
    assert auc in shown and f"{config.workdir}/result.json" in shown
    assert f"gvvad evaluate --workdir={config.workdir} --store={real_store}" in shown
    output, shown = _on_a_terminal(
        "gvvad_jax.evaluate", f"--workdir={config.workdir}", f"--store={real_store}"
    )
    assert output == json.dumps(result.last) + "\n"
    assert auc in shown and f"gvvad score --workdir={config.workdir}" in shown
