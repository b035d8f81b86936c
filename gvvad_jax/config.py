"""The settings of a training run: one frozen dataclass, built from flags and checked once.

Commands alone define and read flags; everything else gets a `TrainConfig`.
"""

import copy
import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from gvvad_jax.command import UserError, check, group

# The checkpoints of a run by name.
CHECKPOINTS = ("last", "best_on_validation", "best_on_test")
# Help of flags that other commands have too.
ALARMS_HELP = (
    "Alarms an hour that the threshold of events may give on normal footage. That takes 3 hours of "
    "footage divided by this number; less footage supports more alarms only, which is reported. "
    "After training, the run's is the default."
)
NORMAL_HELP = (
    "Feature store of normal footage, not trained on, to set the threshold on; train and evaluate "
    "take the normal validation videos by default."
)
# What each detector takes besides labels. A new detector is its file and a line here.
DETECTORS = {
    "mil_rank": ("visual",),
    "rtfm": ("visual",),
    "tevad": ("visual", "text"),
    "lap": ("visual", "text", "bank"),
    "ur_dmu": ("visual",),
}
# The detectors that read a flag, for flags that not all of them read. A test compares this with the
# programs.
_MTN = ("rtfm", "tevad", "lap")
READ_BY = {
    "fusion": ("tevad", "lap"),
    "mtn_channels": _MTN,
    "batch_norm": _MTN,
    "head_widths": (*_MTN, "ur_dmu"),
    "dropout": _MTN,  # All detectors read 0.
    "body_width": ("ur_dmu",),
    "heads": ("ur_dmu",),
    "head_channels": ("ur_dmu",),
    "memory_rows": ("ur_dmu",),
    "margin": (*_MTN, "ur_dmu"),
    "magnitude_weight": _MTN,
    "smoothness_weight": _MTN,
    "sparsity_weight": _MTN,
    "pseudo_weight": ("lap",),
    "triplet_weight": ("lap",),
    "normal_weight": (*_MTN, "ur_dmu"),
}
# What both streams, and the text stream, are needed for.
_OF_BOTH_STREAMS = ("fusion",)
_OF_TEXT = ("pseudo_weight", "triplet_weight")
# The modes of lambda that read a flag, likewise.
_LEARNED = ("learnable", "sigmoid", "softplus", "uncertainty", "meta")
READ_IN = {
    "lambda_value": ("fixed", "scheduled", "auto", *_LEARNED),
    "lambda_rise": ("scheduled",),
    "lambda_decay": ("scheduled",),
    "lambda_shift": ("scheduled",),
    "lambda_learning_rate": _LEARNED,
    "meta_share": ("meta",),
}
_OF_GENERATED = (
    *("lambda_mode", "mixup", "synthetic_share", *READ_IN),
    *("batch_norm", "standardise_by", "pair_twins", "conflicts"),
)
# Functions of ssls.py.
LAMBDA_MODES = (
    "fixed",
    "scheduled",
    *_LEARNED,
    "auto",
)
# The range that lambda must start in; modes that aren't here take any number.
LAMBDA_RANGES = {
    "sigmoid": (0.0, 1.0),
    "softplus": (0.0, math.inf),
    "uncertainty": (0.0, math.inf),
    "meta": (0.0, 1.0),
    "auto": (0.0, math.inf),
}

# The learning rate of lambda in mode meta; ssls.meta says why.
META_RATE = 0.05

# Settings that are arguments of the compiled training step: other values compile nothing new.
NUMBERS = (
    *("margin", "magnitude_weight", "smoothness_weight", "sparsity_weight"),
    *("pseudo_weight", "triplet_weight", "normal_weight", "abnormal_weight"),
    *("lambda_value", "learning_rate", "lambda_learning_rate", "l2"),
)
# Other settings that no program depends on, besides those of data and cadence.
_OUTSIDE = (
    *("batch_size", "early_stop", "seed", "parallel", "processes", "device_gigabytes"),
    "compilation_cache",
)


_DATA, _DETECTOR = "Data", "Detector"
_CADENCE = "Logging, validation and checkpoints"
DATA = group(_DATA)
DETECTOR = group(_DETECTOR)
LOSSES = group("Losses")
SSLS = group("Synthetic sample loss scaling (SSLS)")
OPTIMISATION = group("Optimisation")
DEVICES = group("Devices and precision (these change the numbers by rounding alone)")
CADENCE = group(_CADENCE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of one training run; each field is a flag. The defaults are the paper's."""

    store: str = DATA(
        "", "Feature store of the real videos; separate several with commas. Required."
    )
    synthetic_store: str = DATA(
        "",
        "Feature store of the generated videos; separate several with commas (default: train on "
        "real videos only).",
    )
    synthetic_keep: str = DATA(
        "", "Decisions of the filter, a decisions.jsonl (default: keep every generated video)."
    )
    annotations: str = DATA("", "The videos.json to use instead of the store's own.")
    workdir: str = DATA("", "Folder of the run; the same command resumes it. Required.")
    segments: int = DATA(
        64,
        "Segments that each training video is averaged into; with --causal_window the snippets of "
        "a video that a step sees, in as many windows as fit, at least one.",
        low=1,
    )
    real_share: float = DATA(
        1.0,
        "Share of each label's real training videos to use, at least one video; generated videos "
        "are all used.",
        low=0,
        high=1,
    )
    train_crops: int = DATA(
        0, "Crops per training step, drawn at random for each step; 0 uses all.", low=0
    )
    score_crops: str = DATA(
        "all",
        "How a video's crops are scored: all, whose scores are averaged, or mean, whose features "
        "are averaged first, which takes a fraction of the time and gives other scores.",
        choices=("all", "mean"),
    )
    mixup: float = DATA(
        0.0, "Alpha of feature mixup between real and generated videos; 0 turns it off.", low=0
    )
    standardise: str = DATA(
        "auto",
        "Standardise visual features by training statistics; auto does so where the encoder needs "
        "it.",
        choices=("auto", "yes", "no"),
    )
    standardise_by: str = DATA(
        "real",
        "Videos whose statistics standardise: real standardises generated videos by the real "
        "ones', domain by those of their own store, and gives their text the real text's mean and "
        "deviation.",
        choices=("real", "domain"),
    )
    synthetic_share: float | str | None = DATA(
        None,
        "Share of generated videos in each half of a batch, at the same places of both, so that no "
        "pair mixes sources; auto is the share that the studies support (default: real and "
        "generated videos form one pool, and pairs mix them as they come).",
        choices=("auto",),
        low=0.0,
        high=1.0,
    )
    pair_twins: bool = DATA(
        False,
        "Pair a generated abnormal video with its normal twin, if that is trained on, so that "
        "losses over pairs contrast the event alone.",
    )
    validation_share: float = DATA(
        0.1,
        "Share of the training videos held out for validation, unless videos.json names "
        "validation videos.",
        low=0.0,
        high=0.5,
    )
    allow_shared_rows: bool = DATA(
        False, "Accept test videos whose rows equal those of a training or validation video."
    )
    verify_rows: bool = DATA(
        True,
        "Compare each video's rows with their digest when they are first read; at most 0.2 "
        "seconds per 100 MB.",
    )

    detector: str = DETECTOR("lap", "Detector to train.", choices=tuple(DETECTORS))
    fidelity: str = DETECTOR(
        "paper",
        "Follow the paper, or what its published code computes.",
        choices=("paper", "reference"),
    )
    causal_window: int = DETECTOR(
        0,
        "Snippets that a score depends on, its own and those before it: training takes windows of "
        "so many consecutive snippets, and convolutions and attention see the past only. 0 trains "
        "on segments of whole videos, and scores look at whole videos.",
        low=0,
    )
    feature_group: str = DETECTOR(
        "both", "Feature streams to use.", choices=("both", "visual", "text")
    )
    fusion: str = DETECTOR(
        "concat",
        "How the visual and text streams are combined.",
        choices=("concat", "add", "product", "add_up"),
    )
    batch_norm: str = DETECTOR(
        "shared",
        "BatchNorm while training: shared normalises real and generated videos together; "
        "per_domain normalises them apart, and keeps the statistics of real ones for scoring.",
        choices=("shared", "per_domain"),
    )
    mtn_channels: int = DETECTOR(
        0,
        "Channels of each branch of the MTN; 0 uses a quarter of the input's width, as published.",
        low=0,
    )
    head_widths: tuple[int, ...] = DETECTOR(
        (),
        "Widths of the scoring head's hidden layers (default: as published, 512,128; UR-DMU 128).",
    )
    dropout: float = DETECTOR(
        0.7,
        "Dropout rate of the detectors with an MTN; the others keep their published rates. 0 "
        "turns dropout off everywhere.",
        high=0.99,
        low=0,
    )
    body_width: int = DETECTOR(512, "UR-DMU: channels of the body.", low=1)
    heads: int = DETECTOR(4, "UR-DMU: attention heads.", low=1)
    head_channels: int = DETECTOR(
        0, "UR-DMU: channels of each attention head; 0 uses body_width / heads.", low=0
    )
    memory_rows: int = DETECTOR(60, "UR-DMU: rows of each memory.", low=1)

    top_k: int = LOSSES(3, "Highest-scoring snippets of a video, whose mean stands for it.", low=1)
    margin: float = LOSSES(
        100.0,
        "Margin of the magnitude loss and of UR-DMU's distance loss; 100 suits I3D features.",
        low=0.0,
    )
    magnitude_weight: float = LOSSES(1e-4, "Weight of the magnitude loss.", low=0.0)
    smoothness_weight: float = LOSSES(8e-4, "Weight of the smoothness loss.", low=0.0)
    sparsity_weight: float = LOSSES(8e-3, "Weight of the sparsity loss.", low=0.0)
    pseudo_weight: float = LOSSES(
        1e-3, "Weight of LAP's pseudo-anomaly loss (the paper's beta).", low=0.0
    )
    triplet_weight: float = LOSSES(
        0.1, "Weight of LAP's multi-prompt triplet loss (the paper's gamma).", low=0.0
    )
    normal_weight: float = LOSSES(1.0, "Weight of loss terms over a single normal video.", low=0.0)
    abnormal_weight: float = LOSSES(
        1.0, "Weight of loss terms over a single abnormal video.", low=0.0
    )

    lambda_mode: str = SSLS(
        "fixed",
        "How lambda, the weight of generated videos' loss, is set; auto chooses it before training "
        "and leaves out stores that do not gain. BUILD.md describes each mode.",
        choices=LAMBDA_MODES,
    )
    lambda_value: float = SSLS(
        0.5, "Lambda, its first value where it is learned, or what mode auto begins with."
    )
    lambda_rise: str = SSLS(
        "linear",
        "Mode scheduled: lambda's rise in the first tenth of the run.",
        choices=("none", "linear", "exponential", "cosine"),
    )
    lambda_decay: str = SSLS(
        "none",
        "Mode scheduled: lambda's decay after the rise; half falls to 0 at half of the run.",
        choices=("none", "cosine", "half", "step"),
    )
    lambda_shift: int = SSLS(
        100,
        "Mode scheduled: steps by which the schedule is ahead. With the published 100, a run of "
        "1000 steps has no rise; 0 gives one.",
        low=0,
    )
    lambda_learning_rate: float | None = SSLS(
        None,
        "Learning rate of a learned lambda (default: 0.05 in mode meta, else --learning_rate).",
        low=0.0,
    )
    meta_share: float = SSLS(
        0.2,
        "Mode meta: share of the real training videos kept for learning lambda.",
        low=0.0,
        high=0.5,
    )
    conflicts: str = SSLS(
        "keep",
        "Where the generated videos' gradient has a negative product with the real ones': keep it, "
        "or project it off the real one, so that it doesn't raise their loss; limit also keeps it "
        "shorter than lambda times the real one. Both take one more backward pass.",
        choices=("keep", "project", "limit"),
    )
    log_gradients: bool = SSLS(
        False,
        "Log norms and cosine of the real and generated videos' gradients; about doubles a step's "
        "time.",
    )

    steps: int = OPTIMISATION(1000, "Training steps.", low=1)
    batch_size: int = OPTIMISATION(
        32, "Pairs per step: this many normal and this many abnormal videos.", low=1
    )
    optimizer: str = OPTIMISATION(
        "auto",
        "Optimiser; auto is Adam, and Adagrad for mil_rank with --fidelity=reference.",
        choices=("auto", "adam", "adagrad"),
    )
    learning_rate: float = OPTIMISATION(1e-3, "Learning rate.", low=0.0)
    learning_rate_schedule: str = OPTIMISATION(
        "constant",
        "Decay of the learning rate: cosine or linear to 0, or step to a tenth at half of the run "
        "and again at three quarters.",
        choices=("constant", "cosine", "linear", "step"),
    )
    warmup_steps: int = OPTIMISATION(0, "Steps in which the learning rate rises from 0.", low=0)
    l2: float = OPTIMISATION(5e-3, "L2 penalty on every parameter, added to the gradient.", low=0.0)
    clip_norm: float = OPTIMISATION(
        0.0, "Largest norm of the detector's gradient; 0 doesn't clip.", low=0.0
    )
    ema: float = OPTIMISATION(
        0.0,
        "Decay of the averaged parameters that score; 0 scores with the last parameters.",
        low=0,
        high=0.9999,
    )
    early_stop: int = OPTIMISATION(
        0, "Stop after this many validations without a better one; 0 never stops early.", low=0
    )
    # Beyond this JAX's 32-bit keys would repeat.
    seed: int = OPTIMISATION(0, "Random seed.", low=0, high=2**31 - 2)

    parallel: str = DEVICES(
        "single",
        "Devices to train on: one, or all of them by pmap or by a mesh. More devices give the same "
        "numbers in float64; float32's rounding differs, and the difference grows with the steps.",
        choices=("single", "pmap", "mesh"),
    )
    processes: str = DEVICES(
        "one",
        "Processes of a run by pmap or mesh: one; ranks, by the variables RANK, WORLD_SIZE, "
        "MASTER_ADDR and MASTER_PORT as torchrun sets them; auto, as JAX finds them on a TPU pod, "
        "under SLURM or MPI.",
        choices=("one", "ranks", "auto"),
    )
    precision: str = DEVICES(
        "float32",
        "Precision of a training step. With bfloat16, parameters, statistics and losses stay "
        "float32; float64 is for checks.",
        choices=("float32", "bfloat16", "float64"),
    )
    device_gigabytes: float = DEVICES(
        8.0,
        "Gigabytes of training videos that a device may hold; beyond it they stay in mapped files "
        "and each batch is gathered a step ahead.",
        low=0.0,
    )
    matmul_precision: str = DEVICES(
        "highest",
        "Precision of float32 matrix products on GPUs and TPUs, in training and in scoring: "
        "highest is float32; high and default are faster and may round to TF32 or bfloat16. CPUs "
        "always take float32.",
        choices=("highest", "high", "default"),
    )
    compilation_cache: str = DEVICES(
        os.environ.get("JAX_COMPILATION_CACHE_DIR", "~/.cache/gvvad_jax"),
        "Folder of compiled programs, shared by runs; empty keeps none.",
    )

    log_every: int = CADENCE(10, "Steps between lines of metrics.jsonl.", low=1)
    loggers: str = CADENCE(
        "tensorboard",
        "Where metrics go beside metrics.jsonl, separated by commas: tensorboard, wandb, mlflow; "
        "empty for nowhere. Keys and addresses come from the environment.",
    )
    validate_every: int = CADENCE(50, "Steps between validations.", low=1)
    checkpoint_every: int = CADENCE(100, "Steps between checkpoints.", low=1)
    best_on_test: bool = CADENCE(
        False, "Also report the checkpoint that is best on the TEST set, as publications do."
    )
    alarms_per_hour: float = CADENCE(
        1.0,
        ALARMS_HELP,
        low=0.001,
        high=59.0,
    )
    normal_store: str = CADENCE(
        "",
        NORMAL_HELP,
    )

    def __post_init__(self) -> None:
        check(self)
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
        if self.fidelity == "reference" and self.batch_norm == "per_domain":
            raise UserError(
                "--batch_norm: expected shared with --fidelity=reference, as published, found "
                "per_domain; leave one out"
            )
        if self.fidelity == "reference" and self.conflicts != "keep":
            raise UserError(
                "--conflicts: expected keep with --fidelity=reference, as published, found "
                f"{self.conflicts}; leave one out"
            )
        if self.fidelity == "reference" and self.causal_window:
            raise UserError(
                "--causal_window: expected 0 with --fidelity=reference, as published, found "
                f"{self.causal_window}; leave one out"
            )
        if self.processes != "one" and self.parallel == "single":
            raise UserError(
                f"--processes={self.processes}: expected --parallel=pmap or mesh, found single; "
                "a process of its own needs no others"
            )
        if self.warmup_steps >= self.steps and self.warmup_steps:
            raise UserError(
                f"--warmup_steps: expected fewer than the {self.steps} steps, found "
                f"{self.warmup_steps}; lower it"
            )

    @property
    def normalises_by_domain(self) -> bool:
        return self.batch_norm == "per_domain" and self.detector in READ_BY["batch_norm"]

    @property
    def bag(self) -> int:
        """Rows of a training video that a step sees."""
        window = self.causal_window
        return max(1, self.segments // window) * window if window else self.segments

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
    def numbers(self) -> dict[str, float]:
        """The settings of NUMBERS by name, as a compiled training step takes them."""
        numbers = {name: getattr(self, name) for name in NUMBERS}
        if self.lambda_learning_rate is None:
            meta = self.lambda_mode == "meta"
            numbers["lambda_learning_rate"] = META_RATE if meta else self.learning_rate
        return numbers

    def with_numbers(self, numbers: Mapping[str, Any]) -> "TrainConfig":
        """Returns a copy with other NUMBERS, which may be traced and aren't checked."""
        changed = copy.copy(self)
        for name, value in numbers.items():
            object.__setattr__(changed, name, value)
        return changed

    @property
    def program(self) -> "TrainConfig":
        """The settings that a compiled training step depends on; all others have their defaults."""
        outside = {*NUMBERS, *_OUTSIDE}
        if not (self.depends_on_steps or self.warmup_steps):
            outside.add("steps")
        groups = (_DATA, _CADENCE)
        return self._with_defaults(
            field.name
            for field in dataclasses.fields(self)
            if field.name in outside
            or (field.metadata["group"] in groups and field.name != "train_crops")
        )

    @property
    def scoring_program(self) -> "TrainConfig":
        """The settings that a compiled scoring step depends on, and fresh parameters do."""
        kept = ("top_k", "matmul_precision", "score_crops")
        return self._with_defaults(
            field.name
            for field in dataclasses.fields(self)
            if field.name in ("batch_norm", "dropout")
            or (field.metadata["group"] != _DETECTOR and field.name not in kept)
        )

    def _with_defaults(self, names: Iterable[str]) -> "TrainConfig":
        defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: defaults[name] for name in names})

    @property
    def depends_on_steps(self) -> bool:
        """Whether a step depends on how many there will be: such a run can't be prolonged."""
        return self.learning_rate_schedule != "constant" or self.lambda_mode == "scheduled"


def unread_flags(config: TrainConfig) -> dict[str, str]:
    """Returns the flags that were changed but have no effect, and what each would need."""
    needs: dict[str, str] = {}
    for name, readers in READ_BY.items():
        if config.detector not in readers:
            needs[name] = f"--detector={' or '.join(readers)}"
        elif name in _OF_TEXT and not config.uses_text:
            needs[name] = "a text stream"
        elif name in _OF_BOTH_STREAMS and not (config.uses_text and config.uses_visual):
            needs[name] = "--feature_group=both"
    if not config.dropout:
        needs.pop("dropout", None)
    for name, modes in READ_IN.items():
        if config.lambda_mode not in modes:
            needs[name] = f"--lambda_mode={' or '.join(modes)}"
    if not config.synthetic_store:
        needs |= dict.fromkeys(_OF_GENERATED, "--synthetic_store")
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return {name: need for name, need in needs.items() if getattr(config, name) != defaults[name]}
