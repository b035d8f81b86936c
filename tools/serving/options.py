"""Flags of tools.app."""

import dataclasses

from gvvad_jax.command import UserError, check, flag_of, group
from tools.watching.options import WatchOptions

SERVER = group("Server")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppOptions:
    """What to score with, and whom to serve."""

    workdir: str = flag_of(WatchOptions, "workdir")
    checkpoint: str = flag_of(WatchOptions, "checkpoint")
    adaptation: str = flag_of(WatchOptions, "adaptation")
    threshold: float | None = flag_of(WatchOptions, "threshold")
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
            raise UserError(
                "--workdir: expected a run's folder or hf:USER/NAME, found none; give one"
            )

    def watch(self, out: str) -> WatchOptions:
        """Returns the options that score a video into a folder."""
        return WatchOptions(
            workdir=self.workdir,
            checkpoint=self.checkpoint,
            adaptation=self.adaptation,
            threshold=self.threshold,
            out=out,
        )
