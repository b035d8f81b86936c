"""Importing published checkpoints: the goldens' parameters as .pkl files, scored through files."""

import json
import pathlib
import subprocess

import numpy as np
import pytest
import torch

from gvvad_jax import scoring, training
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.store.reader import Store
from tests.support.started import python
from tests.support.stores import make_manifest, write_store
from tools.published import checkpoints
from tools.published.checkpoints import CheckpointImport

ROOT = pathlib.Path(__file__).parents[3]
GOLDEN = sorted((pathlib.Path(__file__).parents[2] / "golden").glob("*.npz"))


def _import(source, workdir, **options):
    request = CheckpointImport(source=source, workdir=workdir, **options)
    return checkpoints.import_checkpoint(request)


def _golden(name):
    with np.load(ROOT / "tests" / "golden" / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def _save(golden, path, prefix="param/", **changes):
    """The golden's parameters as PyTorch saves a model."""
    state = {
        name.removeprefix(prefix): torch.from_numpy(np.array(value))
        for name, value in golden.items()
        if name.startswith(prefix)
    }
    torch.save(state | changes, path)
    return str(path)


def _scores(model, golden):
    """Snippet scores of the golden's evaluation video, [crops or 1, T]."""
    if "eval/visual_crops" in golden:
        crops = {str(i): (x[:, None], None) for i, x in enumerate(golden["eval/visual_crops"])}
        return np.stack(list(model.score(crops).values()))
    visual_TxNxD = golden["eval/visual"][0].swapaxes(0, 1)
    text_SxE = golden["eval/text"][0, 0] if "eval/text" in golden else None
    return model.score({"video": (visual_TxNxD, text_SxE)})["video"][None]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_an_imported_checkpoint_scores_as_published(path, tmp_path):
    golden = _golden(path.stem)
    fusion = str(golden.get("meta/fusion", "auto"))
    imported = _import(
        _save(golden, tmp_path / "model.pkl"),
        str(tmp_path / "w"),
        fusion=fusion if fusion in ("add", "product") else "auto",
        heads=int(golden.get("meta/heads", 4)),
    )
    expected_detector = "lap" if "learnable" in path.stem else path.stem.split("_")[0]
    if path.stem.startswith("lap") and "param/VLR" not in golden:
        expected_detector = "tevad"  # Their checkpoints are the same, and score alike.
    if path.stem == "ur_dmu":
        expected_detector = "ur_dmu"
    assert imported["detector"] == expected_detector and imported["leftovers"] == []
    assert imported["lambda"] == (0.5 if "param/VLR" in golden else None)
    scores = _scores(scoring.load(str(tmp_path / "w")), golden)
    name = "snippet_scores_per_crop" if path.stem == "ur_dmu" else "snippet_scores"
    expected = golden[f"eval/{name}"].reshape(scores.shape)
    np.testing.assert_allclose(scores, expected, atol=1e-5 * expected.max())


def _command(module, *arguments, status=0):
    done = subprocess.run(
        [*python("torch"), "-m", module, *arguments], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if status == 0 else done.stderr


def test_the_commands_go_from_file_to_scores(tmp_path):
    """After one step, DataParallel's prefix and a trainer's wrapper in the file."""
    golden = _golden("lap_concat_learnable")
    bare = torch.load(_save(golden, tmp_path / "bare.pkl", "param_after/"), weights_only=True)
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": v for name, v in bare.items()}}
    torch.save(wrapped, tmp_path / "model.pkl")
    source, workdir = str(tmp_path / "model.pkl"), str(tmp_path / "w")
    imported = _command("tools.import_checkpoint", f"--source={source}", f"--workdir={workdir}")
    assert (imported["dim"], imported["text_dim"], imported["fusion"]) == (24, 32, "concat")
    assert _import(source, workdir) == imported  # The same again.
    np.save(tmp_path / "x.npy", golden["eval/visual"][0].swapaxes(0, 1))
    np.save(tmp_path / "y.npy", golden["eval/text"][0, 0])
    _command(
        "gvvad_jax.score",
        f"--workdir={workdir}",
        f"--visual={tmp_path / 'x.npy'}",
        f"--text={tmp_path / 'y.npy'}",
        f"--out={tmp_path / 's.npz'}",
    )
    with np.load(tmp_path / "s.npz", allow_pickle=False) as scores:
        expected = golden["eval/snippet_scores_after_step"][0, :, 0]
        np.testing.assert_allclose(scores["snippets/x"], expected, atol=1e-6)
        assert scores["x"].shape == (45 * 16,)


def test_evaluate_takes_an_import_on_a_store_of_its_widths(tmp_path):
    golden = _golden("tevad")
    manifest = make_manifest(
        dim=24, snippet={"frames": 16, "stride": 16, "pooling": "mean"},
        text={"encoder": "words", "dim": 32, "normalised": False},
    )  # fmt: skip
    write_store(tmp_path / "s", {"test": (2, 2)}, manifest=manifest)
    source = _save(golden, tmp_path / "model.pkl")
    _import(source, str(tmp_path / "w"))
    measured = _command(
        "gvvad_jax.evaluate", f"--workdir={tmp_path / 'w'}", f"--store={tmp_path / 's'}"
    )
    assert 0 <= measured["auc"] <= 1 and measured["videos"] == 4
    named = _import(source, str(tmp_path / "named"), store=str(tmp_path / "s"))
    assert named["detector"] == "tevad"
    assert scoring.load(str(tmp_path / "named")).manifest == Store(tmp_path / "s").manifest
    other = make_manifest(dim=25)
    write_store(tmp_path / "other", {"test": (1, 1)}, manifest=other)
    with pytest.raises(UserError, match="expected features of width 24 and text of width 32"):
        _import(source, str(tmp_path / "x"), store=str(tmp_path / "other"))


def _refused(tmp_path, golden, message, prefix="param/", changes=None, drop=(), **settings):
    state = {k: v for k, v in golden.items() if k.removeprefix(prefix) not in drop}
    path = _save(state, tmp_path / "bad.pkl", prefix, **(changes or {}))
    with pytest.raises(UserError, match=message) as caught:
        _import(path, str(tmp_path / "w"), **settings)
    assert "bad.pkl" in str(caught.value)
    assert not (tmp_path / "w").exists()


def test_names_shapes_and_leftovers_are_reported(tmp_path):
    golden = _golden("tevad")
    _refused(tmp_path, golden, r"1 missing, .*head/fc2/bias", drop=["fc2.bias"])
    changes = {"fc2.weight": torch.zeros(128, 500)}
    _refused(tmp_path, golden, r"'fc2.weight': expected shape \[512, 128\]", changes=changes)
    surplus = {"Aggregate.extra.weight": torch.zeros(2)}
    _refused(tmp_path, golden, r"found 1 more \(Aggregate.extra.weight\)", changes=surplus)
    _refused(tmp_path, golden, "expected finite", changes={"fc3.bias": torch.tensor([np.nan])})
    _refused(tmp_path, golden, "expected one of tevad, lap", detector="rtfm")
    _refused(tmp_path, golden, "expected concat .* found add", fusion="add")
    _refused(tmp_path, _golden("lap_add_fixed"), "expected add or product .* found auto")
    _refused(tmp_path, {"param/w": np.zeros(2)}, "expected parameters of RTFM, TEVAD, LAP")
    _refused(tmp_path, _golden("ur_dmu"), "expected shape", heads=3)
    conv = {"param/embedding.conv_1.0.weight": np.zeros((4, 4, 3))}
    _refused(tmp_path, conv, "whole and in their ranks")
    _refused(tmp_path, golden, "expected a parameter's rank",
             changes={"fc1.weight": torch.zeros(512, 56, 2)})  # fmt: skip
    _refused(tmp_path, golden, "expected a parameter's rank", changes={"VLR": torch.zeros(2)})
    imported = _import(
        _save(golden, tmp_path / "more.pkl", **surplus), str(tmp_path / "w"), allow_leftovers=True
    )
    assert imported["leftovers"] == ["Aggregate.extra.weight"]


def test_a_workdir_of_another_run_is_left_alone(tmp_path):
    one = _save(_golden("rtfm"), tmp_path / "one.pkl")
    _import(one, str(tmp_path / "w"))
    two = _save(_golden("tevad"), tmp_path / "two.pkl")
    with pytest.raises(UserError, match="found another import's; give another --workdir"):
        _import(two, str(tmp_path / "w"))
    assert scoring.load(str(tmp_path / "w")).config.detector == "rtfm"
    with pytest.raises(UserError, match="found an imported checkpoint; training would replace it"):
        training.fit(TrainConfig(store="any", workdir=str(tmp_path / "w")))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model.json").write_text("mine")
    with pytest.raises(UserError, match=r"--workdir=.*data: .* found other files \(model.json\)"):
        _import(one, str(tmp_path / "data"))
    (tmp_path / "w").rename(tmp_path / "moved")
    assert _import(one, str(tmp_path / "moved"))["detector"] == "rtfm"
    (tmp_path / "moved" / "import.json").write_text("[" * 10)
    with pytest.raises(UserError, match=r"import.json: expected JSON"):
        _import(one, str(tmp_path / "moved"))


def test_other_heads_are_another_import(tmp_path):
    path = _save(_golden("ur_dmu"), tmp_path / "model.pkl")
    _import(path, str(tmp_path / "w"), heads=4)
    with pytest.raises(UserError, match="found another import's"):
        _import(path, str(tmp_path / "w"), heads=8)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10, 40, 24), r"found \[10, 40, 24\], crops first; transpose"),
        ((10, 10, 24), r"found \[10, 10, 24\], sizes that could be either; import .* --num_crops"),
        ((1, 5, 24), "could be either"),
        ((40, 3, 24), r"found \[40, 3, 24\], other sizes; import .* with --num_crops"),
    ],
)
def test_a_layout_that_the_shape_does_not_tell_is_asked_for(tmp_path, shape, message):
    """[10, 40, D] was 10 snippets of 40 crops: 160 frames stood for 640."""
    source = _save(_golden("rtfm"), tmp_path / "model.pkl")
    _import(source, str(tmp_path / "w"))
    features = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with pytest.raises(UserError, match=message):
        scoring.load(str(tmp_path / "w")).score({"a": features})


def test_known_crops_settle_the_layout(tmp_path):
    source = _save(_golden("rtfm"), tmp_path / "model.pkl")
    _import(source, str(tmp_path / "unknown"))
    _import(source, str(tmp_path / "ten"), num_crops=10)
    assert scoring.load(str(tmp_path / "ten")).manifest.crops == {"count": 10, "order": "unknown"}
    features = np.random.default_rng(0).normal(size=(40, 10, 24)).astype(np.float32)
    unknown = scoring.load(str(tmp_path / "unknown")).score({"a": features})
    known = scoring.load(str(tmp_path / "ten")).score({"a": features, "b": features[:10]})
    np.testing.assert_array_equal(unknown["a"], known["a"])
    assert len(known["a"]) == 40 and len(known["b"]) == 10
    with pytest.raises(UserError, match=r"expected \[T, 10, 24\], 10 crops as in training"):
        scoring.load(str(tmp_path / "ten")).score({"a": features.swapaxes(0, 1)})
    with pytest.raises(UserError, match="--num_crops, --store: expected one of them, found both"):
        CheckpointImport(source=source, workdir="w", store="s", num_crops=10)


def test_text_of_another_length_is_refused(tmp_path):
    """56 rows of text passed for 10 snippets; published captions differ by a few rows."""
    _import(_save(_golden("tevad"), tmp_path / "model.pkl"), str(tmp_path / "w"))
    model = scoring.load(str(tmp_path / "w"))
    visual_TxD, text_SxE = np.ones((40, 24)), np.ones((80, 32))
    for length in (35, 40, 45):
        assert len(model.score({"a": (visual_TxD, text_SxE[:length])})["a"]) == 40
    for length in (20, 34, 46, 80):
        with pytest.raises(UserError, match=rf"expected text, .*found \[{length}, 32\]"):
            model.score({"a": (visual_TxD, text_SxE[:length])})
    with pytest.raises(UserError, match=r"array \[10, 32\], .* found \[56, 32\]"):
        model.score({"a": (visual_TxD[:10], text_SxE[:56])})
