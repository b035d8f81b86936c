"""What a training run is told: one frozen dataclass, built from absl flags, checked once.

Flags are defined and read in the entry points alone; everything else gets a `TrainConfig`.
"""

import dataclasses
import math
import sys
from typing import Any

from absl import flags

from gvvad_jax.command import UserError

# What each detector takes besides labels. Adding one: its file, and a line here.
DETECTORS = {
    "mil_rank": ("visual",),
    "rtfm": ("visual",),
    "tevad": ("visual", "text"),
    "lap": ("visual", "text", "bank"),
    "ur_dmu": ("visual",),
}
# Functions of ssls.py.
LAMBDA_MODES = (
    "fixed",
    "scheduled",
    "learnable",
    "sigmoid",
    "softplus",
    "uncertainty",
    "meta",
)
# Where lambda must start; modes that aren't here take any number.
LAMBDA_RANGES = {
    "sigmoid": (0.0, 1.0),
    "softplus": (0.0, math.inf),
    "uncertainty": (0.0, math.inf),
    "meta": (0.0, 1.0),
}


def _option(default: Any, help: str, **checks: Any) -> Any:
    """A field that becomes a flag. `checks`: choices, low, high (both inclusive)."""
    return dataclasses.field(default=default, metadata={"help": help, **checks})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. The defaults are the paper's (GV-VAD on LAP)."""

    # Data.
    store: str = _option("", "feature store of the real videos; several separated by commas")
    synthetic_store: str = _option("", "feature store of the generated videos")
    synthetic_keep: str = _option("", "decisions.jsonl of the filter; all are kept without it")
    annotations: str = _option("", "videos.json that overrides the one in the store")
    workdir: str = _option("", "folder of this run; the same command resumes it")
    segments: int = _option(64, "segments a training video is averaged into", low=1)
    real_share: float = _option(
        1.0,
        "share of each label's real training videos in use, at least one; all synthetic ones",
        low=0,
        high=1,
    )
    train_crops: int = _option(
        0, "crops that a step sees, drawn at random each time; 0: all", low=0
    )
    mixup: float = _option(
        0.0, "alpha of feature mixup between real and synthetic videos; 0: none", low=0
    )
    standardise: str = _option(
        "auto",
        "standardise visual features by training statistics; auto: where the encoder asks",
        choices=("auto", "yes", "no"),
    )
    synthetic_share: float | None = _option(
        None,
        "share of synthetic videos in each half of a batch; one pool without it",
        low=0.0,
        high=1.0,
    )
    validation_share: float = _option(
        0.1,
        "share of the training videos kept for validation, unless videos.json names them",
        low=0.0,
        high=0.5,
    )

    # Detector.
    detector: str = _option("lap", "base model", choices=tuple(DETECTORS))
    fidelity: str = _option(
        "paper",
        "what the paper says, or what its published code computes",
        choices=("paper", "reference"),
    )
    feature_group: str = _option("both", "streams in use", choices=("both", "visual", "text"))
    fusion: str = _option(
        "concat", "how the streams meet", choices=("concat", "add", "product", "add_up")
    )
    mtn_channels: int = _option(
        0, "channels of each branch of the MTN; 0: a quarter of the input, as published", low=0
    )
    head_widths: tuple[int, ...] = _option(
        (), "hidden layers of the scoring head; empty: as published, 512,128 (UR-DMU: 128)"
    )
    dropout: float = _option(
        0.7, "rate of the detectors with an MTN; others keep their own, 0 turns it off", high=0.99,
        low=0,
    )  # fmt: skip
    body_width: int = _option(512, "UR-DMU: channels of its body", low=1)
    heads: int = _option(4, "UR-DMU: attention heads", low=1)
    head_channels: int = _option(0, "UR-DMU: channels of a head; 0: body_width / heads", low=0)
    memory_rows: int = _option(60, "UR-DMU: rows of each memory", low=1)

    # Losses.
    top_k: int = _option(3, "snippets that stand for a bag", low=1)
    margin: float = _option(
        100.0, "of the magnitude loss, and of UR-DMU's distance (100 suits I3D)", low=0.0
    )
    magnitude_weight: float = _option(1e-4, "weight of the magnitude loss", low=0.0)
    smoothness_weight: float = _option(8e-4, "weight of the smoothness loss", low=0.0)
    sparsity_weight: float = _option(8e-3, "weight of the sparsity loss", low=0.0)
    pseudo_weight: float = _option(1e-3, "LAP's beta, of the pseudo-anomaly loss", low=0.0)
    triplet_weight: float = _option(0.1, "LAP's gamma, of the multi-prompt triplet loss", low=0.0)
    normal_weight: float = _option(1.0, "of the terms over one normal video", low=0.0)
    abnormal_weight: float = _option(1.0, "of the terms over one abnormal video", low=0.0)

    # Synthetic sample loss scaling; ssls.py says what each mode is.
    lambda_mode: str = _option("fixed", "how lambda is set", choices=LAMBDA_MODES)
    lambda_value: float = _option(0.5, "lambda, or where it starts")
    lambda_rise: str = _option(
        "linear", "scheduled: first tenth", choices=("none", "linear", "exponential", "cosine")
    )
    lambda_decay: str = _option(
        "none", "scheduled: after the rise", choices=("none", "cosine", "step")
    )
    lambda_shift: int = _option(
        100, "scheduled: steps it is ahead, as published: 1000 steps have no rise; 0 for one", low=0
    )
    lambda_learning_rate: float | None = _option(
        None, "of a learned lambda; the detector's without it", low=0.0
    )
    meta_share: float = _option(
        0.2, "meta: share of the real training videos kept for lambda alone", low=0.0, high=0.5
    )
    log_gradients: bool = _option(
        False, "log norms and cosine of the real and synthetic gradients; about doubles a step"
    )

    # Optimisation.
    steps: int = _option(1000, "training steps", low=1)
    batch_size: int = _option(32, "pairs a step: so many normal and so many abnormal videos", low=1)
    optimizer: str = _option(
        "auto",
        "auto: adam, and adagrad for mil_rank with --fidelity=reference",
        choices=("auto", "adam", "adagrad"),
    )
    learning_rate: float = _option(1e-3, "of the optimiser", low=0.0)
    learning_rate_schedule: str = _option(
        "constant",
        "down to 0 by a cosine or a line, or to a tenth at half and again at three quarters",
        choices=("constant", "cosine", "linear", "step"),
    )
    warmup_steps: int = _option(0, "steps in which the learning rate rises from 0", low=0)
    l2: float = _option(5e-3, "L2 coupled with the optimiser, on every parameter", low=0.0)
    clip_norm: float = _option(0.0, "clip the detector's gradient to this norm; 0: don't", low=0.0)
    ema: float = _option(
        0.0,
        "decay of the averaged parameters that score; 0: the last ones score",
        low=0,
        high=0.9999,
    )
    early_stop: int = _option(
        0, "stop after so many validations without a better one; 0: never", low=0
    )
    # Beyond this JAX's 32-bit keys would repeat.
    seed: int = _option(0, "of everything random", low=0, high=2**31 - 2)
    parallel: str = _option("single", "devices", choices=("single", "pmap", "mesh"))
    compilation_cache: str = _option(
        "~/.cache/gvvad_jax", "folder of compiled programs, shared by runs; empty for none"
    )

    # Cadence, in steps.
    log_every: int = _option(10, "steps between lines of metrics.jsonl", low=1)
    validate_every: int = _option(50, "steps between validations", low=1)
    checkpoint_every: int = _option(100, "steps between checkpoints", low=1)
    best_on_test: bool = _option(
        False, "also report the best checkpoint on the TEST set, as publications do"
    )

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if "text" not in DETECTORS[self.detector] and self.feature_group == "text":
            raise UserError(
                f"--feature_group: expected visual for {self.detector}, found text; it has no text "
                "stream: use --detector=tevad"
            )
        if min(self.head_widths, default=1) < 1:
            raise UserError(
                f"--head_widths: expected at least 1 each, found {self.head_widths}; correct it"
            )
        low, high = LAMBDA_RANGES.get(self.lambda_mode, (-math.inf, math.inf))
        if not low < self.lambda_value < high:
            raise UserError(
                f"--lambda_value: expected between {low:g} and {high:g} (both excluded) for "
                f"--lambda_mode={self.lambda_mode}, found {self.lambda_value:g}; start inside"
            )
        if self.warmup_steps >= self.steps and self.warmup_steps:
            raise UserError(
                f"--warmup_steps: expected fewer than the {self.steps} steps, found "
                f"{self.warmup_steps}; lower it"
            )

    @property
    def uses_visual(self) -> bool:
        return self.feature_group != "text"

    @property
    def uses_text(self) -> bool:
        return self.feature_group != "visual" and "text" in DETECTORS[self.detector]

    @property
    def uses_bank(self) -> bool:
        return self.uses_text and "bank" in DETECTORS[self.detector]

    @property
    def depends_on_steps(self) -> bool:
        """Whether a step depends on how many there will be: such a run can't be prolonged."""
        return self.learning_rate_schedule != "constant" or self.lambda_mode == "scheduled"


def _check(field: dataclasses.Field, value: Any) -> None:
    choices, low, high = (field.metadata.get(key) for key in ("choices", "low", "high"))
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        expected = "a finite number"
    elif choices is not None and value not in choices:
        expected = f"one of {', '.join(choices)}"
    elif low is not None and value < low:
        expected = f"at least {low}"
    elif high is not None and value > high:
        expected = f"at most {high}"
    else:
        return
    raise UserError(f"--{field.name}: expected {expected}, found {value!r}; correct the flag")


_DEFINERS = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    float | None: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def define_flags(cls: type = TrainConfig) -> None:
    """Defines one flag a field, under the field's name, as the command's own: --help lists it."""
    for field in dataclasses.fields(cls):
        choices = field.metadata.get("choices")
        text = field.metadata["help"] + (f" ({'|'.join(choices)})" if choices else "")
        if field.type == tuple[int, ...]:
            default = ",".join(map(str, field.default))
            flags.DEFINE_list(field.name, default, text, module_name=sys.argv[0])
        else:
            _DEFINERS[field.type](field.name, field.default, text, module_name=sys.argv[0])


def from_flags(cls: type = TrainConfig) -> Any:
    """The parsed flags as a config; raises UserError on a value out of range."""
    values = {}
    for field in dataclasses.fields(cls):
        value = flags.FLAGS[field.name].value
        values[field.name] = _integers(field, value) if isinstance(value, list) else value
    return cls(**values)


def _integers(field: dataclasses.Field, items: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(item) for item in items if item)
    except ValueError as error:
        raise UserError(
            f"--{field.name}: expected whole numbers separated by commas, found {','.join(items)!r}"
        ) from error


def to_flagfile(config: Any) -> str:
    """The config as a flagfile that gives it back."""
    lines = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None:
            continue
        if isinstance(value, tuple):
            value = ",".join(map(str, value))
        lines.append(f"--{field.name}={str(value).lower() if isinstance(value, bool) else value}")
    return "\n".join(lines) + "\n"
