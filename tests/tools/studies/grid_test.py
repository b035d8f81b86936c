"""The grid of a study: arms, rows in their order, and what makes a row another one."""

import pathlib

import pytest

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.flagfiles import _flags_in
from tools.studies import grid

CONFIGS = pathlib.Path(__file__).parents[3] / "configs" / "studies"


def study(**fields):
    return grid.GridStudy(**{"csv": "t.csv", "detectors": "rtfm,lap", "seeds": 1} | fields)


def test_an_arm_is_a_name_and_flags_of_training():
    arms = grid.parse_arms(
        [
            "real only: --keep=none",
            "SSLS, filter: --lambda_value=0.25 --keep=filter --head_widths=8,4 --pair_twins",
            "share: --synthetic_share=0.5 --base=SSLS, filter --ema=0",
            "auto: --synthetic_share=auto --nopair_twins",
        ]
    )
    assert arms == [
        grid.Arm("real only", "none", {}),
        grid.Arm(
            "SSLS, filter", "filter",
            {"lambda_value": 0.25, "head_widths": (8, 4), "pair_twins": True},
        ),
        grid.Arm("share", "all", {"synthetic_share": 0.5, "ema": 0.0}, "SSLS, filter"),
        grid.Arm("auto", "all", {"synthetic_share": "auto", "pair_twins": False}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "--arm: expected at least one arm"),
        (["--keep=all"], "expected NAME: FLAGS"),
        (["a: --keep=some"], "--keep to be one of none, all, filter, random, found 'some'"),
        (["a: --lambda_vale=1"], "--lambda_vale: expected a flag, found an unknown one"),
        (["a: --lambda_value=x"], "--arm=a: --lambda_value"),
        (["a: --seed=1"], "expected flags of training, --FLAG=VALUE, found '--seed=1'"),
        (["a: lambda_value=1"], "found 'lambda_value=1'"),
        (["a: --keep=none", "a: --keep=all"], "expected one arm of a name, found two"),
        (["a: --keep=all --base=b"], "expected --base to name an arm above it, found 'b'"),
    ],
)
def test_what_is_no_arm_is_one_line(texts, message):
    with pytest.raises(UserError, match=message) as refused:
        grid.parse_arms(texts)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"csv": ""}, "--csv: expected the .csv"),
        ({"counts": "30"}, "--counts: expected numbers such as 30.3,30.6, found '30'"),
        ({"counts": "30+0"}, "--counts"),
        ({"gaps": "0,x"}, "--gaps: expected numbers from 0 on"),
        ({"gaps": "-1"}, "--gaps"),
        ({"detectors": "rtfm,lab"}, "--detectors: expected some of .*, found 'rtfm,lab'"),
        ({"detectors": ""}, "--detectors"),
    ],
)
def test_what_is_no_grid_is_one_line(fields, message):
    with pytest.raises(UserError, match=message):
        study(**fields)


def test_videos_are_needed_to_run_only(tmp_path):
    of_videos = study(footage="videos")
    with pytest.raises(UserError, match="--videos: expected a videos.json"):
        of_videos.require_videos()
    with pytest.raises(UserError, match="--clips=.*: expected world, a videos.json or a folder"):
        study(clips=str(tmp_path / "none")).require_videos()
    study().require_videos()


def test_draws_and_seeds_are_outermost_and_real_videos_alone_have_no_gap():
    arms = grid.parse_arms(["real: --keep=none", "all: --keep=all"])
    cells = list(
        grid.cells(
            study(draws=2, first_draw=7, seeds=2, counts="4+2,4+4", gaps="0,0.5", detectors="lap"),
            arms,
        )
    )
    of_pair = [
        (4, 2, "", "", "real"), (4, 2, "0", "world", "all"), (4, 2, "0.5", "world", "all"),
        (4, 4, "", "", "real"), (4, 4, "0", "world", "all"), (4, 4, "0.5", "world", "all"),
    ]  # fmt: skip
    assert [(c.normal, c.abnormal, c.gap, c.clips, c.arm) for c in cells] == of_pair * 4
    assert list(dict.fromkeys(c.pair for c in cells)) == [(7, 0), (7, 1), (8, 0), (8, 1)]
    assert {grid.run_seed(cell) for cell in cells} == {7000, 7001, 8000, 8001}


def test_a_row_is_known_by_all_that_changes_its_numbers_and_nothing_else():
    real, own = grid.parse_arms(["real: --keep=none", "own: --batch_norm=per_domain"])

    def digest(arm=own, detector="rtfm", of=None, **flags):
        return grid.flags_digest(of or study(), TrainConfig(**flags), arm, detector)

    same = digest()
    assert digest(verify_rows=False, compilation_cache="", workdir="w", seed=3) == same
    # Fusion needs a text stream; generated videos need lambda.
    assert digest(fusion="add") == same != digest(detector="lap")
    assert digest(real, lambda_value=1.0) == digest(real) != digest(lambda_value=1.0)
    assert digest(steps=7) != same
    assert digest(own, "mil_rank") == digest(
        grid.Arm("shared", "all", {}), "mil_rank"
    )  # It has no BatchNorm.
    (random,) = grid.parse_arms(["own: --batch_norm=per_domain --keep=random"])
    assert digest(random) != same != digest(of=study(snippet_frames=12))
    # The arm's name and the study's size are no part of it.
    assert digest(of=study(draws=9, counts="6+6", gaps="2")) == same


@pytest.mark.parametrize(
    "path",
    [p for p in CONFIGS.glob("*.flags") if "tools.study --" in p.read_text()],
    ids=lambda p: p.stem,
)
def test_every_flagfile_is_a_study(path):
    text = path.read_text()
    command = f"python -m tools.study --flagfile=configs/studies/{path.name}"
    assert command in text and f"--csv=docs/studies/{path.stem}.csv" in text
    flags = [line.lstrip("-").partition("=") for line in _flags_in(str(path), ())]
    arms = grid.parse_arms([value for name, _, value in flags if name == "arm"])
    types = {name: field.type for name, field in grid.GridStudy.__dataclass_fields__.items()}
    values = {name: int(v) if types[name] is int else v for name, _, v in flags if name in types}
    planned = grid.GridStudy(**values)
    shared = {
        name: grid._parsed("", TrainConfig.__dataclass_fields__[name], value or "true")
        for name, _, value in flags
        if name in TrainConfig.__dataclass_fields__
    }
    for arm in arms:
        for detector in planned.detector_names:
            grid.arm_config(TrainConfig(**shared), arm, detector)
    digests = {
        (arm.name, grid.flags_digest(planned, TrainConfig(**shared), arm, "rtfm"))
        for arm in arms
        if planned.footage == "world"
    }
    assert len({digest for _, digest in digests}) == len(digests)  # No arm twice.
