"""Events to an MQTT broker, and to Home Assistant through it."""

import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import paho.mqtt.client as mqtt

from gvvad_jax.command import UserError
from tools.watching import sinks

_PORTS = {"mqtt": 1883, "mqtts": 8883}
# Seconds between attempts to connect: the first pause and the longest.
_PAUSES = (1, 30)
_KEEPALIVE = 30
# Home Assistant looks for devices here.
_DISCOVERY = "homeassistant/binary_sensor"


class Broker(sinks.Sink):
    """Publishes each message at TOPIC/NAME of its source, so that it arrives at least once (QoS 1).

    TOPIC itself says "online", or "offline" once the broker has lost this process; both are kept by
    the broker for whoever asks later.

    Args:
      url: mqtt[s]://host[:port]/topic.
      names: name of each source in topics.
      user, password: for the broker; no user: neither is sent.
      discovery: whether to announce each source to Home Assistant.

    Raises:
      UserError: the address is another.
    """

    def __init__(
        self,
        url: str,
        names: Sequence[str],
        *,
        user: str = "",
        password: str = "",
        discovery: bool = False,
    ):
        parts = sinks.receiver("--mqtt", url, tuple(_PORTS))
        topic = parts.path.strip("/")
        if not topic or any(character in url for character in "+#?\0"):
            raise UserError(
                "--mqtt: expected mqtt[s]://host[:port]/topic, with a topic without +, # and ?, "
                f"found {url!r}; correct it"
            )
        port = parts.port or _PORTS[parts.scheme]
        super().__init__(f"{parts.scheme}://{parts.hostname}:{port}/{topic}")
        self._topic, self._names, self._discovery = topic, tuple(names), discovery
        self._arrived: set[int] = set()
        self._acknowledged = threading.Condition()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        if user:
            self._client.username_pw_set(user, password or None)
        if parts.scheme == "mqtts":
            self._client.tls_set()
        self._client.will_set(topic, "offline", qos=1, retain=True)
        self._client.reconnect_delay_set(*_PAUSES)
        self._client.on_connect = self._connected
        self._client.on_connect_fail = lambda *_: self._complain("can't be reached; messages wait")
        self._client.on_disconnect = self._disconnected
        self._client.on_publish = self._published
        self._client.connect_async(parts.hostname, port, _KEEPALIVE)

    def start(self) -> None:
        """Starts connecting and delivering."""
        self._client.loop_start()
        super().start()

    def close(self, seconds: float = sinks._LAST_SECONDS) -> None:
        """Ends delivering, see Sink.close, and the connection."""
        super().close(seconds)
        if self._client.is_connected():
            # A proper end makes the broker forget the will.
            self._client.publish(self._topic, "offline", qos=1, retain=True)
        self._client.disconnect()
        self._client.loop_stop()

    def _deliver(self, message: Mapping[str, Any]) -> None:
        while not self._client.is_connected():
            if not self._rest(0.1):
                raise ConnectionError
        with self._acknowledged:
            self._arrived.clear()  # Numbers come again after 65535 messages.
        info = self._client.publish(f"{self._topic}/{message['video']}", json.dumps(message), qos=1)
        # From here on the client itself sends it again after each reconnection.
        with self._acknowledged:
            while info.mid not in self._arrived:
                self._acknowledged.wait(0.2)
                if not self._rest(0):
                    raise ConnectionError

    def _published(self, client: Any, userdata: Any, mid: int, *_: Any) -> None:
        del client, userdata
        with self._acknowledged:
            self._arrived.add(mid)
            self._acknowledged.notify_all()

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, *_: Any) -> None:
        del userdata, flags
        if reason.is_failure:
            self._complain(f"refuses the connection ({reason}); messages wait")
            return
        client.publish(self._topic, "online", qos=1, retain=True)
        for name in self._names if self._discovery else ():
            payload = json.dumps(self._announcement(name))
            client.publish(f"{_DISCOVERY}/{self._id(name)}/config", payload, qos=1, retain=True)

    def _disconnected(self, client: Any, userdata: Any, flags: Any, reason: Any, *_: Any) -> None:
        del client, userdata, flags
        if reason.is_failure:
            self._complain("the connection was lost; messages wait")

    def _id(self, name: str) -> str:
        return re.sub(r"[^A-Za-z0-9_-]", "_", f"gvvad_{self._topic}_{name}")

    def _announcement(self, name: str) -> dict[str, Any]:
        topic = f"{self._topic}/{name}"
        return {
            "name": "Anomaly",
            "unique_id": self._id(name),
            "device_class": "problem",
            "state_topic": topic,
            "value_template": "{{ 'ON' if value_json.state == 'begin' else 'OFF' }}",
            "json_attributes_topic": topic,
            "availability_topic": self._topic,
            "device": {"identifiers": [self._id(name)], "name": f"gvvad {name}"},
        }


def from_environment(url: str, names: Sequence[str], discovery: bool) -> Broker:
    """Returns the broker of an address, with MQTT_USERNAME and MQTT_PASSWORD of the environment."""
    user = os.environ.get("MQTT_USERNAME", "")
    password = os.environ.get("MQTT_PASSWORD", "")
    return Broker(url, names, user=user, password=password, discovery=discovery)
