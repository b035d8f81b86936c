"""What a training run is told: one frozen dataclass, built from absl flags, checked once.

Flags are defined and read in the entry points alone; everything else gets a `TrainConfig`.
"""

import dataclasses
import math
import os

from gvvad_jax.command import UserError, check, option

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. The defaults are the paper's (GV-VAD on LAP)."""

    # Data.
    store: str = option("", "feature store of the real videos; several separated by commas")
    synthetic_store: str = option("", "feature store of the generated videos")
    synthetic_keep: str = option("", "decisions.jsonl of the filter; all are kept without it")
    annotations: str = option("", "videos.json that overrides the one in the store")
    workdir: str = option("", "folder of this run; the same command resumes it")
    segments: int = option(64, "segments a training video is averaged into", low=1)
    real_share: float = option(
        1.0,
        "share of each label's real training videos in use, at least one; all synthetic ones",
        low=0,
        high=1,
    )
    train_crops: int = option(0, "crops that a step sees, drawn at random each time; 0: all", low=0)
    mixup: float = option(
        0.0, "alpha of feature mixup between real and synthetic videos; 0: none", low=0
    )
    standardise: str = option(
        "auto",
        "standardise visual features by training statistics; auto: where the encoder asks",
        choices=("auto", "yes", "no"),
    )
    synthetic_share: float | None = option(
        None,
        "share of synthetic videos in each half of a batch; one pool without it",
        low=0.0,
        high=1.0,
    )
    validation_share: float = option(
        0.1,
        "share of the training videos kept for validation, unless videos.json names them",
        low=0.0,
        high=0.5,
    )

    # Detector.
    detector: str = option("lap", "base model", choices=tuple(DETECTORS))
    fidelity: str = option(
        "paper",
        "what the paper says, or what its published code computes",
        choices=("paper", "reference"),
    )
    feature_group: str = option("both", "streams in use", choices=("both", "visual", "text"))
    fusion: str = option(
        "concat", "how the streams meet", choices=("concat", "add", "product", "add_up")
    )
    mtn_channels: int = option(
        0, "channels of each branch of the MTN; 0: a quarter of the input, as published", low=0
    )
    head_widths: tuple[int, ...] = option(
        (), "hidden layers of the scoring head; empty: as published, 512,128 (UR-DMU: 128)"
    )
    dropout: float = option(
        0.7, "rate of the detectors with an MTN; others keep their own, 0 turns it off", high=0.99,
        low=0,
    )  # fmt: skip
    body_width: int = option(512, "UR-DMU: channels of its body", low=1)
    heads: int = option(4, "UR-DMU: attention heads", low=1)
    head_channels: int = option(0, "UR-DMU: channels of a head; 0: body_width / heads", low=0)
    memory_rows: int = option(60, "UR-DMU: rows of each memory", low=1)

    # Losses.
    top_k: int = option(3, "snippets that stand for a bag", low=1)
    margin: float = option(
        100.0, "of the magnitude loss, and of UR-DMU's distance (100 suits I3D)", low=0.0
    )
    magnitude_weight: float = option(1e-4, "weight of the magnitude loss", low=0.0)
    smoothness_weight: float = option(8e-4, "weight of the smoothness loss", low=0.0)
    sparsity_weight: float = option(8e-3, "weight of the sparsity loss", low=0.0)
    pseudo_weight: float = option(1e-3, "LAP's beta, of the pseudo-anomaly loss", low=0.0)
    triplet_weight: float = option(0.1, "LAP's gamma, of the multi-prompt triplet loss", low=0.0)
    normal_weight: float = option(1.0, "of the terms over one normal video", low=0.0)
    abnormal_weight: float = option(1.0, "of the terms over one abnormal video", low=0.0)

    # Synthetic sample loss scaling; ssls.py says what each mode is.
    lambda_mode: str = option("fixed", "how lambda is set", choices=LAMBDA_MODES)
    lambda_value: float = option(0.5, "lambda, or where it starts")
    lambda_rise: str = option(
        "linear", "scheduled: first tenth", choices=("none", "linear", "exponential", "cosine")
    )
    lambda_decay: str = option(
        "none", "scheduled: after the rise", choices=("none", "cosine", "step")
    )
    lambda_shift: int = option(
        100, "scheduled: steps it is ahead, as published: 1000 steps have no rise; 0 for one", low=0
    )
    lambda_learning_rate: float | None = option(
        None, "of a learned lambda; the detector's without it", low=0.0
    )
    meta_share: float = option(
        0.2, "meta: share of the real training videos kept for lambda alone", low=0.0, high=0.5
    )
    log_gradients: bool = option(
        False, "log norms and cosine of the real and synthetic gradients; about doubles a step"
    )

    # Optimisation.
    steps: int = option(1000, "training steps", low=1)
    batch_size: int = option(32, "pairs a step: so many normal and so many abnormal videos", low=1)
    optimizer: str = option(
        "auto",
        "auto: adam, and adagrad for mil_rank with --fidelity=reference",
        choices=("auto", "adam", "adagrad"),
    )
    learning_rate: float = option(1e-3, "of the optimiser", low=0.0)
    learning_rate_schedule: str = option(
        "constant",
        "down to 0 by a cosine or a line, or to a tenth at half and again at three quarters",
        choices=("constant", "cosine", "linear", "step"),
    )
    warmup_steps: int = option(0, "steps in which the learning rate rises from 0", low=0)
    l2: float = option(5e-3, "L2 coupled with the optimiser, on every parameter", low=0.0)
    clip_norm: float = option(0.0, "clip the detector's gradient to this norm; 0: don't", low=0.0)
    ema: float = option(
        0.0,
        "decay of the averaged parameters that score; 0: the last ones score",
        low=0,
        high=0.9999,
    )
    early_stop: int = option(
        0, "stop after so many validations without a better one; 0: never", low=0
    )
    # Beyond this JAX's 32-bit keys would repeat.
    seed: int = option(0, "of everything random", low=0, high=2**31 - 2)

    # Where it runs; of no effect on the numbers but by rounding.
    parallel: str = option("single", "devices", choices=("single", "pmap", "mesh"))
    processes: str = option(
        "one",
        "with pmap or mesh. ranks: by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun "
        "sets them; auto: as JAX finds them on a TPU pod, under SLURM or MPI",
        choices=("one", "ranks", "auto"),
    )
    precision: str = option(
        "float32",
        "of a training step. bfloat16: parameters, statistics and losses stay float32; float64: "
        "for checks",
        choices=("float32", "bfloat16", "float64"),
    )
    device_gigabytes: float = option(
        8.0,
        "training videos that take more of a device than this stay in mapped files, and a batch "
        "is gathered a step ahead",
        low=0.0,
    )
    compilation_cache: str = option(
        os.environ.get("JAX_COMPILATION_CACHE_DIR", "~/.cache/gvvad_jax"),
        "folder of compiled programs, shared by runs; empty for none",
    )

    # Cadence, in steps.
    log_every: int = option(10, "steps between lines of metrics.jsonl", low=1)
    validate_every: int = option(50, "steps between validations", low=1)
    checkpoint_every: int = option(100, "steps between checkpoints", low=1)
    best_on_test: bool = option(
        False, "also report the best checkpoint on the TEST set, as publications do"
    )

    def __post_init__(self):
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
