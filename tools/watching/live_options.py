"""Flags of tools.score_video for live sources."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gvvad_jax.command import UserError, check, group

if TYPE_CHECKING:
    from tools.watching.sinks import Sink

LIVE = group("Live sources")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """How many snippets a live score looks at, and where events are sent."""

    window: int | None = LIVE(
        None,
        "Snippets that the score of the newest one looks at (default: the run's --causal_window; "
        "64 for other runs).",
        low=1,
        high=16384,
    )
    mqtt: str = LIVE(
        "",
        "MQTT broker that gets events, mqtt[s]://host[:port]/topic; user and password are in "
        "MQTT_USERNAME and MQTT_PASSWORD.",
    )
    home_assistant: bool = LIVE(
        False, "Announce each source to Home Assistant through the broker of --mqtt."
    )
    webhook: str = LIVE(
        "",
        "Address that gets each event by HTTP POST, as JSON; a header with a secret is in "
        "WEBHOOK_HEADER.",
    )

    def __post_init__(self):
        check(self)
        if self.home_assistant and not self.mqtt:
            raise UserError(
                "--home_assistant: expected --mqtt too, found none; name Home Assistant's broker"
            )

    def sinks(self, names: Sequence[str]) -> "list[Sink]":
        """Returns where events go beside files; raises UserError for a wrong address."""
        made: list[Sink] = []
        if self.mqtt:
            from tools.watching import mqtt

            made.append(mqtt.from_environment(self.mqtt, names, self.home_assistant))
        if self.webhook:
            from tools.watching import sinks

            made.append(sinks.from_environment(self.webhook))
        return made
