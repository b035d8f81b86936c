"""The settings: what flags become, and what is refused."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from gvvad_jax.command import UserError, to_flagfile
from gvvad_jax.config import TrainConfig

FLAGFILES = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.flags"))
# Starts a command with a flagfile again and again, in forks of a process that has imported JAX.
START_EACH = """
import json, os, runpy, sys, warnings
import flax, orbax.checkpoint, optax
warnings.simplefilter("ignore")
out, told = sys.argv[1], {}
for path, module in json.loads(sys.argv[2]).items():
    if os.fork() == 0:
        os.dup2(os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC), 2)
        sys.argv = [module, "--flagfile=" + path]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit(0)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    told[path] = status, open(out).read()
print(json.dumps(told))
"""


def test_defaults_are_the_papers():
    config = TrainConfig()
    assert (config.detector, config.fidelity, config.feature_group) == ("lap", "paper", "both")
    assert (config.batch_size, config.learning_rate, config.steps) == (32, 1e-3, 1000)
    assert (config.segments, config.top_k, config.l2) == (64, 3, 5e-3)
    assert (config.lambda_mode, config.lambda_value) == ("fixed", 0.5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", 0, "--batch_size: expected at least 1, found 0"),
        ("learning_rate", float("nan"), "--learning_rate: expected a finite number, found nan"),
        ("head_widths", (8, -3), "--head_widths: expected at least 1 each"),
        ("seed", 2**31, "--seed: expected at most 2147483646, found 2147483648"),
        ("dropout", 1.5, "--dropout: expected at most 0.99, found 1.5"),
        ("detector", "i3d", "--detector: expected one of mil_rank, rtfm, tevad, lap"),
        ("lambda_mode", "free", "--lambda_mode: expected one of fixed, scheduled, learn"),
    ],
)
def test_a_value_out_of_range_is_told(name, value, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**{name: value})


def test_text_alone_needs_a_text_stream():
    with pytest.raises(UserError, match="--feature_group: expected visual for rtfm"):
        TrainConfig(detector="rtfm", feature_group="text")
    assert not TrainConfig(detector="rtfm").uses_text
    assert TrainConfig(detector="lap").uses_text and TrainConfig(detector="lap").uses_visual
    assert not TrainConfig(detector="tevad", feature_group="text").uses_visual


def test_a_flagfile_gives_the_config_back(tmp_path):
    config = TrainConfig(head_widths=(16, 8), l2=0.1, best_on_test=True, synthetic_share=0.25)
    path = tmp_path / "config.flags"
    path.write_text(to_flagfile(config))
    code = (
        "import sys; from absl import flags; from gvvad_jax import command as o, config as c; "
        "o.define_flags(c.TrainConfig); flags.FLAGS(sys.argv); "
        "print(repr(o.from_flags(c.TrainConfig)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"--flagfile={path}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == repr(config)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """By flagfile the exit status and standard error of the command that its head names."""
    modules = {str(p): re.search(r"python -m (\S+)", p.read_text())[1] for p in FLAGFILES}
    out = tmp_path_factory.mktemp("told") / "stderr"
    command = [sys.executable, "-c", START_EACH, str(out), json.dumps(modules)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_committed_flagfiles_name_only_flags_that_exist(path, told):
    status, said = told[str(path)]
    assert (status, said.count("\n")) == (2, 1), said
    # All flags are known; what is missing is where to read or write.
    assert "Unknown command line flag" not in said and "expected" in said


def test_widths_are_whole_numbers():
    done = subprocess.run(
        [sys.executable, "-m", "gvvad_jax.train", "--head_widths=8,x"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: --head_widths: expected whole numbers separated by commas, found '8,x'\n"
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("head_widths", "64,16", "a tuple of whole numbers"),
        ("head_widths", (64, 1.5), "a tuple of whole numbers"),
        ("steps", "10", "a whole number"),
        ("steps", True, "a whole number"),
        ("learning_rate", "fast", "a number"),
        ("store", None, "a text"),
        ("best_on_test", 1, "True or False"),
        ("synthetic_share", "half", "a number or None"),
    ],
)
def test_a_value_of_another_type_names_its_field(name, value, expected):
    with pytest.raises(UserError, match=f"--{name}: expected {expected}"):
        TrainConfig(**{name: value})


def test_paths_and_numpys_numbers_are_taken():
    config = TrainConfig(store=pathlib.Path("a") / "b", steps=np.int64(3), l2=np.float32(0.5))
    assert (config.store, config.steps, config.l2) == ("a/b", 3, 0.5)
