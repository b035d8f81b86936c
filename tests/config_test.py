"""The settings: what flags become, and what is refused."""

import pathlib
import re
import subprocess
import sys

import pytest

from gvvad_jax import options
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"


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
    path.write_text(options.to_flagfile(config))
    code = (
        "import sys; from absl import flags; from gvvad_jax import options as o, config as c; "
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


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.flags")))
def test_committed_flagfiles_name_only_flags_that_exist(name):
    """Through the command that each one's head names."""
    text = (CONFIGS / f"{name}.flags").read_text()
    module = re.search(r"python -m (\S+)", text)[1]
    failed = subprocess.run(
        [sys.executable, "-m", module, f"--flagfile=configs/{name}.flags"],
        capture_output=True,
        text=True,
    )
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
    # All flags are known; what is missing is where to read or write.
    assert "Unknown command line flag" not in failed.stderr and "expected" in failed.stderr


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
