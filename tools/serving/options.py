"""Flags of tools.app."""

import dataclasses
from typing import Any

from gvvad_jax.command import UserError, check, group
from tools.watching.options import WatchOptions

SERVER = group("Server")
_WATCH = WatchOptions.__dataclass_fields__


def _as_there(name: str) -> Any:
    """The flag of tools.score_video of this name."""
    return dataclasses.field(default=_WATCH[name].default, metadata=_WATCH[name].metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppOptions:
    """What to score with, and whom to serve."""

    workdir: str = _as_there("workdir")
    checkpoint: str = _as_there("checkpoint")
    adaptation: str = _as_there("adaptation")
    threshold: float | None = _as_there("threshold")
    host: str = SERVER(
        "127.0.0.1",
        "Address to serve at; 0.0.0.0 serves everybody who reaches this machine, without a login.",
    )
    port: int = SERVER(7860, "Port to serve at.", low=1, high=65535)
    max_megabytes: int = SERVER(
        500, "Megabytes that an uploaded video may have.", low=1, high=100_000
    )
    keep_minutes: float = SERVER(
        60.0, "Minutes after which the page of a video is removed.", low=0.01
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.workdir:
            raise UserError("--workdir: expected a run's folder or hf:USER/NAME, found none")

    def watch(self, out: str) -> WatchOptions:
        """Returns the options that score a video into a folder."""
        return WatchOptions(
            workdir=self.workdir,
            checkpoint=self.checkpoint,
            adaptation=self.adaptation,
            threshold=self.threshold,
            out=out,
        )
