"""The settings: what flags become, and what is refused."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from gvvad_jax import ssls, step
from gvvad_jax.batches import Batch
from gvvad_jax.command import UserError, to_flagfile
from gvvad_jax.config import (
    DETECTORS,
    LAMBDA_MODES,
    NUMBERS,
    READ_BY,
    READ_IN,
    TrainConfig,
    unread_flags,
)
from gvvad_jax.detectors.layers import Noise
from tests.support.steps import SMALL, make_data

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


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_auto_begins_with_a_weight_that_its_regression_can_take(value):
    with pytest.raises(
        UserError, match="--lambda_value: expected between 0 and inf .* --lambda_mode=auto"
    ):
        TrainConfig(lambda_mode="auto", lambda_value=value)


def test_the_published_step_projects_nothing():
    with pytest.raises(UserError, match="--conflicts: expected keep with --fidelity=reference"):
        TrainConfig(fidelity="reference", conflicts="project")


def test_only_meta_has_a_rate_of_its_own_unless_told():
    rates = {
        mode: TrainConfig(lambda_mode=mode, learning_rate=0.01).numbers["lambda_learning_rate"]
        for mode in LAMBDA_MODES
    }
    assert rates == dict.fromkeys(LAMBDA_MODES, 0.01) | {"meta": 0.05}
    told = TrainConfig(lambda_mode="meta", lambda_learning_rate=0.2)
    assert told.numbers["lambda_learning_rate"] == 0.2


def test_text_alone_needs_a_text_stream():
    with pytest.raises(UserError, match="--feature_group: expected visual for rtfm"):
        TrainConfig(detector="rtfm", feature_group="text")
    assert not TrainConfig(detector="rtfm").uses_text
    assert TrainConfig(detector="lap").uses_text and TrainConfig(detector="lap").uses_visual
    assert not TrainConfig(detector="tevad", feature_group="text").uses_visual


@pytest.mark.parametrize("share", [0.25, "auto"])
def test_a_flagfile_gives_the_config_back(tmp_path, share):
    config = TrainConfig(
        head_widths=(16, 8), l2=0.1, best_on_test=True, synthetic_share=share, pair_twins=True
    )
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
        ("synthetic_share", "half", "auto or a number"),
        ("synthetic_share", True, "a number, a word or None"),
    ],
)
def test_a_value_of_another_type_names_its_field(name, value, expected):
    with pytest.raises(UserError, match=f"--{name}: expected {expected}"):
        TrainConfig(**{name: value})


def test_paths_and_numpys_numbers_are_taken():
    config = TrainConfig(store=pathlib.Path("a") / "b", steps=np.int64(3), l2=np.float32(0.5))
    assert (config.store, config.steps, config.l2) == ("a/b", 3, 0.5)


# Another value of each flag that not all detectors, or not all modes of lambda, read.
OTHERS = {
    "fusion": "add_up",
    "mtn_channels": 5,
    "batch_norm": "per_domain",
    "head_widths": (7, 5),
    "dropout": 0.3,
    "body_width": 12,
    "heads": 2,
    "head_channels": 3,
    "memory_rows": 33,
    "margin": 7.0,
    "magnitude_weight": 0.3,
    "smoothness_weight": 0.3,
    "sparsity_weight": 0.3,
    "pseudo_weight": 0.3,
    "triplet_weight": 0.3,
    "normal_weight": 0.3,
    "abnormal_weight": 0.3,
    "top_k": 2,
}


def _program(detector, **changes):
    """The loss of a training step as text."""
    config = TrainConfig(detector=detector, **SMALL | changes)
    data = make_data()
    if not config.uses_text:
        data = data.replace(text_VxTxE=None)
    state = jax.eval_shape(lambda: step.init_state(config, 12, 8))
    noise = Noise(key=jax.random.key(0), videos_V=np.arange(8))
    loss = step.make_loss(config, None, lambda shard: shard)
    program = jax.make_jaxpr(loss)(
        state.params["detector"], np.float32(0.5), state.batch_stats, data, noise
    )
    return re.sub(r"0x[0-9a-f]+", "", str(program))


@pytest.mark.once
@pytest.mark.parametrize("detector", DETECTORS)
def test_the_table_of_flags_says_what_a_detectors_program_depends_on(detector):
    assert set(OTHERS) >= set(READ_BY)
    plain = _program(detector)
    every = {"top_k", "abnormal_weight"}  # All read top_k in scoring, for a video's score.
    listed = {name for name, readers in READ_BY.items() if detector in readers}
    for name in listed - every:
        assert _program(detector, **{name: OTHERS[name]}) != plain, name
    others = OTHERS.keys() - listed - every
    if detector == "mil_rank":
        others -= {"normal_weight"}  # No term is over a single normal video.
    assert _program(detector, **{name: OTHERS[name] for name in others}) == plain, others
    assert _program(detector, dropout=0.0) != plain


# Other values of all settings that no compiled program depends on.
ELSEWHERE = {
    "store": "a", "synthetic_store": "b", "synthetic_keep": "c", "annotations": "d",
    "workdir": "e", "real_share": 0.5, "standardise": "yes", "standardise_by": "domain",
    "synthetic_share": 0.25, "validation_share": 0.2, "allow_shared_rows": True,
    "verify_rows": False, "segments": 7, "margin": 7.0, "magnitude_weight": 7.0,
    "smoothness_weight": 7.0, "sparsity_weight": 7.0, "pseudo_weight": 7.0,
    "triplet_weight": 7.0, "normal_weight": 7.0, "abnormal_weight": 7.0, "lambda_value": 0.25,
    "learning_rate": 7.0, "lambda_learning_rate": 7.0, "l2": 7.0, "steps": 7, "batch_size": 7,
    "seed": 7, "early_stop": 7, "parallel": "mesh", "processes": "ranks",
    "device_gigabytes": 7.0, "compilation_cache": "f", "log_every": 7, "validate_every": 7,
    "checkpoint_every": 7, "best_on_test": True, "alarms_per_hour": 7.0, "normal_store": "g",
    "mixup": 0.5, "score_crops": "mean",
}  # fmt: skip


def test_a_compiled_step_depends_on_nothing_that_its_program_leaves_out():
    plain = TrainConfig(detector="mil_rank")
    changed = dataclasses.replace(plain, **ELSEWHERE)
    assert changed.program == plain.program and hash(plain.program) == hash(changed.program)
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    kept = {name for name in fields - set(ELSEWHERE) if name != "detector"}
    assert "train_crops" in kept
    assert set(NUMBERS) < set(ELSEWHERE)

    def program(config):
        state = jax.eval_shape(lambda: step.init_state(config, 12, 8))
        batch = Batch(np.array([[0, 1], [2, 3]]), np.arange(2))
        traced = jax.make_jaxpr(step.make_train_step(config))(
            state, make_data(), batch, config.numbers
        )
        return re.sub(r"0x[0-9a-f]+", "", str(traced))

    assert program(changed) == program(plain)


def test_a_program_whose_steps_depend_on_their_number_keeps_it():
    for changes in ({"learning_rate_schedule": "cosine"}, {"warmup_steps": 5}):
        assert TrainConfig(steps=70, **changes).program.steps == 70
    assert TrainConfig(steps=70, lambda_mode="scheduled").program.steps == 70


@pytest.mark.parametrize("mode", LAMBDA_MODES)
def test_the_table_of_flags_says_what_a_mode_of_lambda_depends_on(mode):
    def program(**changes):
        config = TrainConfig(lambda_mode=mode, lambda_value=0.5, lambda_decay="step")
        config = dataclasses.replace(config, **changes)
        return str(jax.make_jaxpr(lambda n: ssls.lambda_of(ssls.init_lambda(config), n, config))(3))

    others = {"lambda_rise": "cosine", "lambda_decay": "none", "lambda_shift": 7}
    plain = program()
    read = {name for name, value in others.items() if program(**{name: value}) != plain}
    assert read == {name for name in others if mode in READ_IN[name]}
    learned = bool(ssls.init_lambda(TrainConfig(lambda_mode=mode)))
    assert learned == (mode in READ_IN["lambda_learning_rate"])


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"detector": "rtfm", "feature_group": "visual", "top_k": 5}, {}),
        ({"detector": "ur_dmu", "fusion": "concat"}, {}),  # The default.
        (
            {"detector": "ur_dmu", "fusion": "add", "heads": 2},
            {"fusion": "--detector=tevad or lap"},
        ),
        ({"detector": "mil_rank", "dropout": 0.0}, {}),
        ({"detector": "mil_rank", "dropout": 0.5}, {"dropout": "--detector=rtfm or tevad or lap"}),
        ({"feature_group": "visual", "triplet_weight": 1.0}, {"triplet_weight": "a text stream"}),
        ({"feature_group": "text", "fusion": "add"}, {"fusion": "--feature_group=both"}),
        ({"lambda_shift": 0}, {"lambda_shift": "--lambda_mode=scheduled"}),
        ({"lambda_mode": "scheduled", "lambda_shift": 0}, {}),
        ({"synthetic_store": "", "mixup": 0.2}, {"mixup": "--synthetic_store"}),
        ({"synthetic_store": "", "pair_twins": True}, {"pair_twins": "--synthetic_store"}),
    ],
)
def test_flags_without_effect(changes, needs):
    assert unread_flags(TrainConfig(**{"synthetic_store": "s"} | changes)) == needs


def _trains(*arguments):
    command = [sys.executable, "-m", "gvvad_jax.train", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    return done.stderr.splitlines()


def test_flags_without_effect_are_refused_or_named(tmp_path):
    assert _trains("--detector=ur_dmu", "--fusion=add") == [
        "error: --fusion: expected --detector=tevad or lap, found another setting; it would have "
        "no effect: leave it out"
    ]
    path = tmp_path / "some.flags"
    path.write_text(
        "--fusion=add\n--mtn_channels=8\n--heads=2\n--nobest_on_test\n--batch_norm=per_domain\n"
    )
    said = _trains("--detector=ur_dmu", f"--flagfile={path}")
    assert said[0] == (
        "flags without effect in this run: --fusion (needs --detector=tevad or lap), "
        "--mtn_channels (needs --detector=rtfm or tevad or lap)"
    )
    assert len(said) == 2 and said[1].startswith("error: --workdir")
