"""Loggers beside metrics.jsonl: what they get, what a resumed run repeats, and how they fail."""

import dataclasses
import json
import struct
import time
from unittest.mock import Mock

import pytest

from gvvad_jax import training
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.run import loggers
from gvvad_jax.run.log import RunLog


@pytest.fixture
def fakes(monkeypatch):
    """Replaces the logger wandb by one that keeps what it gets; [(workdir's name, id, lines)]."""
    made = []

    class Kept:
        def __init__(self, workdir, settings, id):
            self.id, self.lines, self.measures = id or f"id-{len(made)}", [], "open"
            made.append(self)

        def write(self, step, values):
            if values.get("loss") == 666:
                raise ConnectionError("no route\nto host")
            self.lines.append((step, dict(values)))

        def close(self, measures):
            self.measures = measures

    monkeypatch.setattr(loggers, "_WandB", Kept)
    return made


def run(tmp_path, start, lines, names=("wandb",), measures=None):
    log = RunLog(tmp_path, start, names, {"seed": 0})
    for step, values in lines:
        log.write(step, values)
    if measures is not None:
        log.finish(measures)
    log.close()


def test_a_resumed_run_goes_on_in_its_log_and_repeats_nothing(tmp_path, fakes):
    lines = [(n, {"loss": float(n)}) for n in (1, 2, 3)]
    # Stopped after step 3, with a checkpoint of step 1.
    run(tmp_path, 0, [*lines, (3, {"validation_auc": 0.5, "validation_loss": None})])
    assert fakes[0].lines[-1] == (3, {"validation_auc": 0.5}) and fakes[0].measures is None
    later = [*lines[1:], (3, {"validation_auc": 0.5}), (4, {"loss": 4.0})]
    run(tmp_path, 1, later, measures={"auc": 0.75, "per_class": {}, "ap": None})
    assert fakes[1].id == fakes[0].id == "id-0"
    assert fakes[1].lines == [(4, {"loss": 4.0})] and fakes[1].measures == {"auc": 0.75}
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"wandb": "id-0"}
    # metrics.jsonl has each line once.
    logged = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert logged == [1, 2, 3, 3, 4]


def test_a_logger_that_joins_later_gets_the_lines_before(tmp_path, fakes):
    run(tmp_path, 0, [(1, {"loss": 1.0}), (2, {"loss": 2.0})], names=())
    assert not fakes and not (tmp_path / "tensorboard").exists()
    run(tmp_path, 1, [(2, {"loss": 2.0}), (3, {"loss": 3.0})])
    assert fakes[0].lines == [(n, {"loss": float(n)}) for n in (1, 2, 3)]


def test_tensorboard_that_joins_later_has_the_lines_before(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(
        loggers._TensorBoard, "write", lambda _, step, values: lines.append((step, values))
    )
    run(tmp_path, 0, [(1, {"loss": 1.0}), (2, {"loss": 2.0})], names=())
    for start in (1, 2):  # Not again where it goes on.
        run(tmp_path, start, [(start + 1, {"loss": start + 1.0})], names=("tensorboard",))
    assert lines == [(n, {"loss": float(n)}) for n in (1, 2, 3)]


def test_a_run_that_was_stopped_while_it_was_measured_logs_its_measures_once(
    settings, tmp_path, fakes, monkeypatch
):
    config = dataclasses.replace(
        settings, detector="mil_rank", steps=2, loggers="wandb", workdir=str(tmp_path / "run")
    )
    monkeypatch.setattr(loggers, "require", lambda names: None)
    with monkeypatch.context() as stopped:
        stopped.setattr(training, "_probe", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            training.fit(config)
    assert fakes[0].lines and fakes[0].measures is None
    result = training.fit(config)
    assert fakes[1].id == fakes[0].id and fakes[1].lines == []
    assert fakes[1].measures["auc"] == result.last["auc"]
    training.fit(config)
    assert len(fakes) == 2


def test_a_logger_that_fails_is_left_out_and_said_once(tmp_path, fakes, capsys):
    run(tmp_path, 0, [(1, {"loss": 1.0}), (2, {"loss": 666.0}), (3, {"loss": 3.0})],
        names=("wandb", "tensorboard"))  # fmt: skip
    assert fakes[0].lines == [(1, {"loss": 1.0})] and fakes[0].measures == "open"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert list((tmp_path / "tensorboard").iterdir())
    assert capsys.readouterr().err == (
        "--loggers=wandb: logs nothing from here on (no route); training goes on, and "
        "metrics.jsonl has everything\n"
    )


def test_other_processes_log_nothing(fakes):
    log = RunLog(None, 0, ("wandb",))
    log.write(1, {"loss": 1.0})
    log.finish({})
    log.close()
    assert not fakes


def test_mistakes_are_one_line_before_anything_is_written(tmp_path, monkeypatch):
    assert TrainConfig().loggers == "tensorboard" and loggers.parse("") == []
    assert loggers.parse("mlflow,tensorboard,mlflow") == ["mlflow", "tensorboard"]
    with pytest.raises(UserError, match="expected tensorboard, wandb, mlflow, .* found 'comet'"):
        loggers.require("tensorboard,comet")
    failures = {
        "wandb": ModuleNotFoundError("No module named 'wandb'", name="wandb"),
        "mlflow": ImportError("cannot import name 'service'"),
    }

    def fail(name):
        raise failures[name]

    monkeypatch.setattr(loggers.importlib, "import_module", fail)
    for name, found in (("wandb", "none"), ("mlflow", "one that fails: cannot import name")):
        with pytest.raises(UserError) as raised:
            training.fit(TrainConfig(workdir=str(tmp_path / "run"), loggers=name))
        assert str(raised.value).startswith(
            f"--loggers={name}: expected the package {name}, found {found}"
        )
        assert str(raised.value).endswith("; pip install '.[loggers]', or leave it out")
    assert not list(tmp_path.iterdir())


def _wandb_records(content):
    """The records of an offline log of Weights & Biases: LevelDB's log format."""
    place, whole = 7, b""  # Behind the header.
    while place < len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # A full record, or the last part of one.
            yield whole
            whole = b""


def _wandb_history(folder):
    """Lines and summary of an offline log of Weights & Biases, and its settings."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    lines, summary, config = [], {}, {}
    for data in _wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        for item in record.run.config.update:
            config[item.key] = json.loads(item.value_json)
        if record.HasField("history"):
            lines.append({i.key or i.nested_key[0]: json.loads(i.value_json)
                          for i in record.history.item})  # fmt: skip
        for item in record.summary.update:
            summary[item.key or item.nested_key[0]] = json.loads(item.value_json)
    return lines, summary, config


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra loggers")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run(tmp_path, 0, [(10, {"loss": 2.0}), (10, {"validation_auc": 0.5}), (20, {"loss": 1.0})],
        measures={"auc": 0.75})  # fmt: skip
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    # On a busy machine W&B's own process writes the file a while after `finish` has returned.
    for _ in range(100):
        lines, summary, config = _wandb_history(folder)
        if len(lines) == 2 and summary and config:
            break
        time.sleep(0.2)
    named = [{k: v for k, v in line.items() if not k.startswith("_")} for line in lines]
    assert named == [{"loss": 2.0, "validation_auc": 0.5}, {"loss": 1.0}]
    assert [line["_step"] for line in lines] == [10, 20]
    assert summary["test/auc"] == 0.75 and config["seed"] == 0
    id = json.loads((tmp_path / "loggers.json").read_text())["wandb"]
    assert folder.name.endswith(f"-{id}") and not list(folder.glob("files/code/*"))


def test_mlflow_in_the_runs_folder(tmp_path, monkeypatch):
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        pytest.skip(f"needs the extra loggers, in versions that fit each other: {error}")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    lines = [(10, {"loss": 2.0}), (20, {"loss": 1.0})]
    run(tmp_path, 0, lines, ("mlflow",))
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    (experiment,) = [e for e in client.search_experiments() if e.name == "gvvad"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.status, found.data.params) == ("KILLED", {"seed": "0"})
    run(tmp_path, 10, [lines[1], (30, {"loss": 0.5})], ("mlflow",), {"auc": 0.75})
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and found.data.metrics["test/auc"] == 0.75
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(10, 2.0), (20, 1.0), (30, 0.5)]
