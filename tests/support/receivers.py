"""Receivers of messages on this machine: a real MQTT broker, and an HTTP server that can fail."""

import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
import time

import paho.mqtt.client as mqtt
import pytest

from tests.support.ports import free_port


class Broker:
    """mosquitto on loopback, which can be killed and started again.

    Attributes:
      port: its port, the same after each start.
    """

    def __init__(self, folder, *settings):
        self._program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if not self._program:
            pytest.skip("needs mosquitto")
        self.port = int(free_port())
        self._config = folder / f"{self.port}.conf"
        # It remembers who listens, even if it is killed.
        remember = "persistence true", f"persistence_location {folder}/", "autosave_interval 1"
        lines = (
            *(f"listener {self.port} 127.0.0.1", "user root", *remember),
            *("autosave_on_changes true", *(settings or ("allow_anonymous true",))),
        )
        self._config.write_text("\n".join(lines) + "\n")
        self._process = None

    def start(self):
        command = [self._program, "-c", str(self._config)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_for(self._answers)

    def _answers(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()


@contextlib.contextmanager
def listening(port, topic="#", user=None, password=None):
    """Yields a list of (topic, text, retained) that grows as messages arrive.

    A broker that remembers keeps what arrives while nobody listens.
    """
    messages, ready = [], threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "listener", clean_session=False)
    if user:
        client.username_pw_set(user, password)
    client.on_connect = lambda *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda c, u, message: messages.append(
        (message.topic, message.payload.decode(), bool(message.retain))
    )
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert ready.wait(20)
    yield messages
    client.disconnect()
    client.loop_stop()


class Hook:
    """An HTTP server that takes JSON, and answers as told.

    Attributes:
      url: its address.
      answers: statuses of the next requests; afterwards it answers 200.
      requests: (headers, content) of each request that was answered with 200.
    """

    def __init__(self):
        self.answers, self.requests = [], []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = hook.answers.pop(0) if hook.answers else 200
                if status == 200:
                    hook.requests.append((dict(self.headers), json.loads(body)))
                self.send_response(status)
                if status in (301, 302, 307):
                    self.send_header("Location", hook.url + "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


def wait_for(condition, seconds=30):
    """Waits until a function returns something true, and returns that."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return result
