"""A real HTTP server on this machine with the chat API.

    with ChatServer() as server:
        server.fail("Fighting", "429", "500")   # the first two requests that mention it
        client.Server(ChatOptions(chat_model="any", base_url=server.url))

Its answers depend on the request alone. Each kind of fault has a name; see `_Handler`.
"""

import dataclasses
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from generation.prompts.words import GRAMMAR

_LIGHTS = ("at noon", "in low evening sun", "under grey clouds", "at night under lamps", "at dawn")
_COLOURS = ("red", "green", "blue", "yellow", "white", "brown", "orange", "purple", "black")
_PEOPLE = ("two men", "a tall man", "two women", "a group of four", "a young couple", "a worker")
_CLOTHES = ("coats", "jackets", "jerseys", "raincoats", "overalls", "sweaters", "hoodies")
_PROPS = ("bins", "benches", "bicycles", "boxes", "trolleys", "umbrellas", "carts", "pallets")
_WALKS = ("to the left", "to the right", "towards the camera", "away from the camera", "in circles")


def text_of(body: Mapping[str, Any]) -> str:
    """Returns all text in a request's messages."""
    texts = []
    for message in body["messages"]:
        content = message["content"]
        parts = [{"text": content}] if isinstance(content, str) else content
        texts += [part.get("text", "") for part in parts]
    return "\n".join(texts)


def write_pair(body: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a valid pair for a request; another one each time it is asked again."""
    first = body["messages"][1]["content"]
    asked = dict(line.split(": ", 1) for line in first.splitlines() if ": " in line)
    cls = asked["Class"].split(" (")[0]
    again = sum(message["role"] == "assistant" for message in body["messages"])
    digest = hashlib.sha256(f"{first}{again}".encode()).digest()
    draw = iter(digest)

    def pick(options):
        return options[(next(draw) * 256 + next(draw)) % len(options)]

    subject = f"{pick(_PEOPLE)} in {pick(_COLOURS)} {pick(_CLOTHES)}"
    events = pick(GRAMMAR[cls].events)
    setting = (
        f"{pick(_LIGHTS)}, with {pick(_COLOURS)} {pick(_PROPS)} in front and {pick(_COLOURS)} "
        f"{pick(_PROPS)} behind"
    )
    close = f"They move {pick(_WALKS)}, then {pick(_WALKS)}, past {pick(_COLOURS)} {pick(_PROPS)}."
    shared = {"viewpoint": asked["Viewpoint"], "location": asked["Location"], "subject": subject}
    twins = {
        label: shared
        | {
            "label": label,
            "event": event,
            "description": f"{setting[0].upper()}{setting[1:]}, {asked['Location']} is seen from "
            f"{asked['Viewpoint']}. {subject[0].upper()}{subject[1:]} can be seen {event}. {close}",
            "phrase": f"{subject} {event} in {asked['Location']}",
        }
        for label, event in zip(("abnormal", "normal"), events, strict=True)
    }
    return {"anomaly_class": cls} | twins


@dataclasses.dataclass
class _Fault:
    match: str
    modes: list[Any]


class ChatServer:
    """The server, a context manager.

    Args:
      answer: returns the content of an answer, given the request's body.
      delay: seconds that an answer takes.
      slow: seconds that an answer with the fault "slow" takes.
      retry_after: value of the Retry-After header with the fault "429".

    Attributes:
      url: the address, for --base_url.
      asked: bodies of all chat requests so far.
      most_at_once: the largest number of chat requests in flight.
      keys: the keys that were sent.
      reshape: changes each chat completion before it is sent.
    """

    def __init__(
        self,
        answer: Callable[[Mapping[str, Any]], Any] = write_pair,
        *,
        delay: float = 0.0,
        slow: float = 1.0,
        retry_after: str = "0.01",
    ):
        self.answer, self.delay, self.slow, self.retry_after = answer, delay, slow, retry_after
        self.asked: list[dict] = []
        self.keys: set[str] = set()
        self.most_at_once = self._at_once = 0
        self.reshape: Callable[[dict], dict] = dict
        self._faults: list[_Fault] = []
        self.lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.chat = self
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def fail(self, match: str, *modes: str | Callable[[dict], dict]) -> None:
        """Gives the next requests that contain a text these faults, one each.

        Args:
          match: the text; "" for any request.
          modes: names of faults (see `_Handler`), or functions that change the answer.
        """
        self._faults.append(_Fault(match, list(modes)))

    def next_fault(self, body: Mapping[str, Any]) -> Any:
        with self.lock:
            for fault in self._faults:
                if fault.modes and fault.match in text_of(body):
                    return fault.modes.pop(0)
        return None

    def enter(self, body: dict) -> None:
        with self.lock:
            self.asked.append(body)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)

    def leave(self) -> None:
        with self.lock:
            self._at_once -= 1

    def reply(self, body: Mapping[str, Any], mode: Any) -> tuple[int, dict]:
        """Returns the status and the content of the reply to a chat request."""
        statuses = {
            "400": ("unsupported_parameter", "this model takes no temperature"),
            "401": ("invalid_api_key", "wrong key: {key}"),
            "403": ("forbidden", "not for {key}"),
            "404": ("model_not_found", "no such model"),
            "429": ("rate_limit_exceeded", "too many requests"),
            "500": ("server_error", "oops with {key}"),
        }
        if mode in ("quota", "policy"):
            status, code = (
                (429, "insufficient_quota") if mode == "quota" else (400, "invalid_prompt")
            )
            return status, {"error": {"code": code, "message": "not this"}}
        if mode in statuses:
            code, message = statuses[mode]
            # A careless server repeats the key.
            message = message.format(key=next(iter(self.keys), ""))
            return int(mode), {"error": {"code": code, "message": message}}
        if mode == "422":  # FastAPI's form.
            return 422, {"detail": [{"msg": "no response_format"}]}
        if mode == "routed":
            message = f"provider is busy with {next(iter(self.keys), '')}"
            return 200, {"error": {"code": 429, "message": message}}
        answer = self.answer(body)
        content = json.dumps(mode(answer) if callable(mode) else answer)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        finish_reason = {"length": "length", "filter": "content_filter"}.get(mode, "stop")
        if mode == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I can't help with that."}
        elif mode == "length":
            message["content"] = content[: len(content) // 2]
        elif mode == "not json":
            message["content"] = "Sure! Here is your scene."
        elif mode == "schema":
            message["content"] = json.dumps({"scene": 1})
        elif mode == "empty":
            message["content"] = ""
        completion = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": f"{body['model']}-2026-01-01",
            "choices": [{"index": 0, "finish_reason": finish_reason, "message": message}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
        }
        return 200, self.reshape(completion)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Replies to requests; adds the faults slow, drop, half (an answer), html and deep."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Headers and body go in one packet; otherwise each answer takes 40 ms.

    def log_message(self, *_):
        pass

    @property
    def chat(self) -> ChatServer:
        return self.server.chat

    def _note(self) -> None:
        self.chat.keys.add(self.headers["Authorization"].removeprefix("Bearer "))

    def _send(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        raw = isinstance(content, bytes)
        data = content if raw else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if raw else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        self._note()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            return self._send(404, {"error": {"message": "not here"}})
        return self._chat(json.loads(content))

    def _chat(self, body: dict) -> None:
        chat = self.chat
        chat.enter(body)
        try:
            mode = chat.next_fault(body)
            time.sleep(chat.slow if mode == "slow" else chat.delay)
            if mode == "drop":
                self.close_connection = True
                return
            if mode in ("html", "deep"):
                self._send(200, {"html": b"<html>hello</html>", "deep": b"[" * 10**5}[mode])
                return
            status, content = chat.reply(body, mode)
        finally:
            chat.leave()
        if mode == "half":
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        try:
            self._send(status, content, {"Retry-After": chat.retry_after} if status == 429 else {})
        except (BrokenPipeError, ConnectionResetError):  # The client gave up.
            self.close_connection = True
