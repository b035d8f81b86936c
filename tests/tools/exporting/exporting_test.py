"""Exported detectors score the same in processes without JAX, or without this package."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from gvvad_jax import scoring
from gvvad_jax.command import UserError
from tests.support.models import make_model, random_features
from tools.exporting import exporting, onnx_detectors
from tools.exporting.exporting import ExportOptions, export

pytest.importorskip("onnxruntime", reason="needs onnxruntime")

# Detectors and settings by name; the first five are all that there are.
MODELS = {
    **{name: {} for name in ("mil_rank", "rtfm", "tevad", "lap", "ur_dmu")},
    "lap-causal": {"causal_window": 5, "fusion": "add_up"},
    "mil_rank-mean": {"score_crops": "mean"},
}
LENGTHS = (1, 20)
# Runs each file on each video of VIDEOS.npz; argument: the folder.
OF_ONNX = """
import json, pathlib, sys
sys.modules |= dict.fromkeys(("jax", "jaxlib", "flax", "gvvad_jax", "tools"))
import numpy as np, onnxruntime
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("*.onnx")):
    session = onnxruntime.InferenceSession(path)
    notes = json.loads(session.get_modelmeta().custom_metadata_map["encoder"])
    assert notes["id"] == "test", notes
    videos, scores = np.load(folder / f"{path.stem}.npz"), {}
    for number in range(len(videos.files) // 2):
        named = {i.name: videos[f"{i.name}/{number}"] for i in session.get_inputs()}
        scores[str(number)] = session.run(["scores"], named)[0]
    np.savez(folder / f"{path.name}.scores.npz", **scores)
loaded = [name for name in sys.modules if name.startswith(("jax.", "gvvad_jax.", "flax."))]
assert not loaded, loaded
"""
OF_STABLEHLO = """
import pathlib, sys
sys.modules |= dict.fromkeys(("gvvad_jax", "tools", "flax"))
import jax, numpy as np
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.glob("*.stablehlo")):
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    videos, scores = np.load(folder / f"{path.stem}.npz"), {}
    for number in range(len(videos.files) // 2):
        names = ("visual", "text")[: len(program.in_avals)]
        scores[str(number)] = program.call(*(videos[f"{name}/{number}"] for name in names))
    np.savez(folder / f"{path.name}.scores.npz", **scores)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with all models in both formats, and their scores of some videos."""
    folder = tmp_path_factory.mktemp("exported")
    expected = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "LENGTHS", (9,))
        for name, settings in MODELS.items():
            model = make_model(name.partition("-")[0], **settings)
            model.save_pretrained(folder / f"{name}-shared", license="mit")
            for format in ("onnx", "stablehlo"):
                out = str(folder / f"{name}.{format}")
                shared = str(folder / f"{name}-shared")
                notes = export(ExportOptions(workdir=shared, format=format, out=out))
                assert notes["compared"]["largest_difference"] <= 1e-5
            features = random_features(model, LENGTHS)
            arrays = {}
            for number, value in enumerate(features.values()):
                pair = value if isinstance(value, tuple) else (value, np.zeros(0, np.float32))
                arrays |= {f"visual/{number}": pair[0], f"text/{number}": pair[1]}
            np.savez(folder / f"{name}.npz", **arrays)
            expected[name] = list(model.score(features).values())
    return folder, expected


@pytest.mark.parametrize(
    ("format", "script"),
    [("onnx", OF_ONNX), ("stablehlo", OF_STABLEHLO)],
    ids=["onnx", "stablehlo"],
)
def test_files_score_in_another_process_as_the_detector_does(exported, format, script):
    folder, expected = exported
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    for name, scores in expected.items():
        found = np.load(folder / f"{name}.{format}.scores.npz")
        for number, scores_T in enumerate(scores):
            assert found[str(number)].dtype == np.float32
            np.testing.assert_allclose(found[str(number)], scores_T, atol=1e-5, rtol=0)
        assert np.ptp(scores[-1]) > 0.01, name


def test_the_description_says_what_the_file_takes(exported):
    folder, _ = exported
    notes = json.loads((folder / "lap.onnx.json").read_text())
    assert notes["inputs"] == {"visual": ["T", 2, 12], "text": ["T", 8]}
    assert notes["threshold"]["threshold"] == 0.625 and notes["temperature"] == 1.75
    assert notes["snippet"] == {"frames": 4, "stride": 4, "pooling": "mean"}
    assert notes["standardised_inside"] and notes["license"] == "mit"
    assert notes["compared"]["scores_between_0.001_and_0.999"] == 1.0
    assert json.loads((folder / "rtfm.stablehlo.json").read_text())["text"] is None


def test_a_file_that_scores_otherwise_is_not_put_in_place(exported, tmp_path, monkeypatch):
    folder, _ = exported
    options = ExportOptions(
        workdir=str(folder / "mil_rank-shared"), format="onnx", out=str(tmp_path / "m.onnx")
    )
    (tmp_path / "m.onnx").write_text("a file of somebody else's")
    with pytest.raises(UserError, match="m.onnx: expected an absent file or one that this comm"):
        export(options)
    (tmp_path / "m.onnx.json").write_text("{}")
    with pytest.raises(UserError, match="m.onnx.json: expected an absent file or one that this"):
        export(options)
    (tmp_path / "m.onnx").unlink()
    (tmp_path / "m.onnx.json").unlink()
    monkeypatch.setattr(exporting, "LENGTHS", (3,))
    run = onnx_detectors.run
    monkeypatch.setattr(onnx_detectors, "run", lambda *of: run(*of) + np.float32(2e-5))
    with pytest.raises(
        UserError, match="within 1e-05 of the detector's, found a difference of 2e-05"
    ):
        export(options)
    monkeypatch.setattr(onnx_detectors, "run", lambda *of: run(*of) * np.float32("nan"))
    with pytest.raises(UserError, match="found a difference of nan"):
        export(options)
    assert list(tmp_path.iterdir()) == []


def test_crops_that_are_not_known_are_one_line(exported, tmp_path, monkeypatch):
    folder, _ = exported
    model = scoring.load(folder / "rtfm-shared")
    crops = {"count": "unknown", "order": "unknown"}
    unknown = dataclasses.replace(model, manifest=dataclasses.replace(model.manifest, crops=crops))
    unknown.save_pretrained(tmp_path / "m", license="mit")
    with pytest.raises(UserError, match="expected a detector whose crops are known"):
        export(ExportOptions(workdir=str(tmp_path / "m"), out=str(tmp_path / "m.onnx")))
