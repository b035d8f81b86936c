"""Asks any OpenAI-compatible server for answers that fit a pydantic schema.

    server = chat.Server(model="MODEL", cache_dir="answers")
    scene = server.ask([{"role": "user", "content": "..."}], Scene, name="scene 3")

The key is read from OPENAI_API_KEY and kept nowhere. Answers are cached on disk by what was asked:
a second run asks nothing, and a killed one loses nothing. `ask_all` asks many at once.
"""

import concurrent.futures
import dataclasses
import importlib.util
import json
import os
import pathlib
import random
import threading
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tqdm

from generation.chat import replies
from generation.chat.replies import Failed, Unusable
from generation.chat.usage import Usage, counted
from gvvad_jax.command import UserError
from gvvad_jax.store import digests
from gvvad_jax.store.files import write_atomically

Schema = TypeVar("Schema")  # a pydantic.BaseModel
Result = TypeVar("Result")
# Fields of a request that are the client's.
_RESERVED = ("model", "messages", "response_format", "stream", "n")
_JITTER = 0.25


@dataclasses.dataclass(frozen=True)
class Request:
    """One question.

    Attributes:
      name: for messages to people; no part of what is asked.
      messages: as the API takes them. An image is {"type": "image_url", "image_url": {"url":
        "data:image/png;base64,..."}} among the parts of a message's content.
      schema: pydantic model that the answer must fit.
    """

    name: str
    messages: Sequence[Mapping[str, Any]]
    schema: type


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
      value: an instance of the request's schema.
      model: the name that the server answers by, often longer than the one asked for.
      content: the answer's text, JSON.
    """

    value: Any
    model: str
    content: str


class Server:
    """An OpenAI-compatible server, from plain values; any thread may ask.

    Args:
      model: the server's name of it.
      base_url: e.g. http://localhost:8000/v1; OPENAI_BASE_URL, or OpenAI's own, unless told. Such
        a server may do without a key; where OPENAI_API_KEY is set, it is sent there.
      sampling: fields of the request, e.g. {"temperature": 1.0}; none is sent unless asked for,
        because models differ in what they take.
      cache_dir: folder of answers; None keeps none.
      max_concurrent: requests in flight at once.
      attempts: of a request, the first included.
      timeout: seconds without a byte before a request counts as lost.
      backoff: seconds before the first retry, doubled for each further one.
      longest_wait: seconds; no retry waits longer (but for jitter), whatever the server asks for.
      price_input, price_output: dollars per million tokens.

    Attributes:
      usage: requests, tokens and dollars so far; see chat_usage.py.

    Raises:
      UserError: a value out of range, or the openai package isn't there.
    """

    def __init__(
        self,
        *,
        model: str,
        base_url: str | None = None,
        sampling: Mapping[str, Any] | None = None,
        cache_dir: str | os.PathLike | None = None,
        max_concurrent: int = 8,
        attempts: int = 4,
        timeout: float = 120.0,
        backoff: float = 1.0,
        longest_wait: float = 60.0,
        price_input: float | None = None,
        price_output: float | None = None,
    ):
        if importlib.util.find_spec("openai") is None:
            raise UserError(
                "--chat_model: expected the openai package, found none; pip install '.[generation]'"
            )
        if not model:
            raise UserError("--chat_model: expected the name of a model, found none; give one")
        for flag, value in (("max_concurrent", max_concurrent), ("attempts", attempts)):
            if value < 1:
                raise UserError(f"--{flag}: expected 1 or more, found {value}; correct it")
        if timeout <= 0:
            raise UserError(f"--timeout: expected more than 0 s, found {timeout}; correct it")
        self.model, self.sampling = model, parse_sampling(json.dumps(dict(sampling or {})))
        self.base_url = _checked_url(base_url)
        self.cache_dir = pathlib.Path(cache_dir) if cache_dir else None
        self.max_concurrent, self.attempts, self.timeout = max_concurrent, attempts, timeout
        self.backoff, self.longest_wait = backoff, longest_wait
        self.usage = Usage(price_input, price_output)
        self._slots = threading.BoundedSemaphore(max_concurrent)
        self._lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._client: Any = None
        self._reached = False

    def ask(self, messages: Sequence[Mapping[str, Any]], schema: type[Schema], *, name: str):
        """One answer.

        Args:
          messages, schema, name: see `Request`.

        Returns:
          An instance of `schema`.

        Raises:
          Failed: no usable answer after `attempts`.
          UserError: what no retry mends: the key, the model's name, a field of the request.
        """
        return self._answer(Request(name, messages, schema), threading.Event()).value

    def ask_all(
        self, requests: Sequence[Request], *, label: str = "answers", progress: bool = True
    ) -> list[Answer | Failed]:
        """Answers in the order of the requests, however they come in.

        Args:
          requests: with a cache, those that ask the same are asked once.
          label: of the bar.
          progress: a bar on standard error.

        Raises:
          UserError: what no retry mends; with a cache, what was answered is kept.
        """
        stop = threading.Event()

        def outcome(request: Request) -> Answer | Failed:
            try:
                return self._answer(request, stop)
            except Failed as failed:
                return failed

        with (
            concurrent.futures.ThreadPoolExecutor(self.max_concurrent) as pool,
            tqdm.tqdm(total=len(requests), desc=label, unit="answer", disable=not progress) as bar,
        ):
            futures = [pool.submit(outcome, request) for request in requests]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
                    bar.update()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def key(self, request: Request) -> str:
        """Hash of all that is asked: model, messages, schema and sampling."""
        asked = [
            self.model,
            list(request.messages),
            request.schema.model_json_schema(),
            self.sampling,
        ]
        return digests.of_json(asked)

    @property
    def host(self) -> str:
        """Where requests go, for messages."""
        return urllib.parse.urlsplit(self.base_url).netloc if self.base_url else "api.openai.com"

    def client(self) -> Any:
        """The `openai.OpenAI` that asks, made when it is first needed.

        Raises:
          UserError: OPENAI_API_KEY is missing or malformed, or the address or a proxy is none.
        """
        with self._lock:
            if self._client is None:
                import openai

                key = os.environ.get("OPENAI_API_KEY", "").strip()
                if not key and not self.base_url:
                    raise UserError(
                        "OPENAI_API_KEY: expected a key in the environment, found none; export "
                        "one, or give --base_url of a server that needs none"
                    )
                if not (key.isascii() and key.isprintable() and len(key.split()) < 2):
                    raise UserError(
                        "OPENAI_API_KEY: expected plain ASCII without spaces, found something "
                        "else; export the key again"
                    )
                try:
                    self._client = openai.OpenAI(
                        api_key=key or "none",
                        base_url=self.base_url,
                        timeout=self.timeout,
                        # `persist` retries; the SDK would sleep as long as it is told
                        max_retries=0,
                    )
                except Exception as error:  # whatever the HTTP package beneath raises
                    raise replies.no_client(error) from error
            return self._client

    def _answer(self, request: Request, stop: threading.Event) -> Answer:
        key = self.key(request)
        with self._lock:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:  # whoever asks the same meanwhile finds it in the cache
            answer = self.recall(key, request.schema)
            if answer is None:
                answer = self.persist(request.name, lambda: self._send(key, request), stop)
            return answer

    def _send(self, key: str, request: Request) -> Answer:
        raw = self.client().chat.completions.with_raw_response.parse(
            model=self.model,
            messages=list(request.messages),
            response_format=request.schema,
            extra_body=self.sampling,  # fields that only this server knows too
        )
        # Parsed here, because the SDK's parsing loses the tokens of what it can't use.
        try:
            reply = raw.http_response.json()
        except (ValueError, RecursionError) as error:
            raise Unusable("the reply is no JSON") from error
        return self.accept(key, request.schema, reply)

    def accept(self, key: str, schema: type, reply: Any) -> Answer:
        """Reads a chat completion, counts its tokens and keeps the answer.

        Args:
          key: of the request.
          schema: that the answer must fit.
          reply: the body, parsed.

        Raises:
          Unusable: refused, cut short, not what the schema asks for.
        """
        reply = reply if isinstance(reply, dict) else {}
        usage = reply.get("usage")
        if usage or not reply.get("error"):  # an error alone costs nothing
            self.usage.add_tokens(usage)
        value, content = replies.read(reply, schema)
        answer = Answer(value, str(reply.get("model") or self.model), content)
        if self.cache_dir:
            record = {"content": answer.content, "model": answer.model, "usage": counted(usage)}
            self._path(key).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(key), (json.dumps(record) + "\n").encode())
        return answer

    def recall(self, key: str, schema: type) -> Answer | None:
        """The cached answer to the request of this key; None where none fits the schema."""
        if not self.cache_dir:
            return None
        try:
            record = json.loads(self._path(key).read_text(encoding="utf-8"))
            value, content = replies.fit(record["content"], schema)
            answer = Answer(value, record["model"], content)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self.usage.add_hit(record.get("usage"))
        return answer

    def _path(self, key: str) -> pathlib.Path:
        return self.cache_dir / key[:2] / f"{key}.json"

    def persist(self, name: str, send: Callable[[], Result], stop: threading.Event) -> Result:
        """Calls `send` until it returns, at most `attempts` times, waiting in between.

        Args:
          name: of what is tried, for the error.
          send: one request; raises Unusable or an error of openai.
          stop: once set, nothing is tried again.

        Raises:
          Failed: after the last attempt.
          UserError: what no retry mends.
        """
        import openai

        for attempt in range(self.attempts):
            self.usage.add("requests")
            if attempt:
                self.usage.add("retries")
            asked = 0.0
            try:
                with self._slots:
                    result = send()
                self._reached = True
                return result
            except Unusable as error:
                self._reached, reason, waits = True, str(error), error.later
            except openai.OpenAIError as error:
                reason, asked = replies.explain(error, self.model, self.host, self.timeout)
                self._reached |= replies.reached(error)
                waits = True
            wait = waits * min(max(self.backoff * 2**attempt, asked), self.longest_wait)
            last = attempt + 1 == self.attempts
            if last or stop.wait(wait * (1 + _JITTER * random.random())):
                break
        self.usage.add("failures")
        if not self._reached:
            raise UserError(
                f"--base_url: expected an OpenAI-compatible server at {self.host}, found none "
                f"that answers ({reason}, {attempt + 1} times); start it or correct the address"
            )
        raise Failed(name, f"{reason}; tried {attempt + 1} times")


def parse_sampling(text: str) -> dict[str, Any]:
    """The value of --sampling, e.g. '{"temperature": 1.0, "max_completion_tokens": 800}'.

    Raises:
      UserError: it is no JSON object, or sets a field that is the client's.
    """
    try:
        sampling = json.loads(text)
    except ValueError:
        sampling = None
    if not isinstance(sampling, dict) or set(sampling) & set(_RESERVED):
        raise UserError(
            f"--sampling: expected a JSON object without {', '.join(_RESERVED)}, found {text!r}; "
            """give fields such as {"temperature": 1.0} alone"""
        )
    return sampling


def _checked_url(base_url: str | None) -> str | None:
    """That, or the environment's, or None; UserError, without a password, for no address."""
    name = "--base_url" if base_url else "OPENAI_BASE_URL"
    base_url = base_url or os.environ.get(name)
    if not base_url:
        return None
    try:
        parts = urllib.parse.urlsplit(base_url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port  # ValueError, if none
        sound = host and parts.scheme in ("http", "https") and "@" not in parts.netloc
    except ValueError:
        sound = False
    if not sound or " " in base_url or not base_url.isprintable():
        raise UserError(
            f"{name}: expected http(s)://HOST[:PORT]/v1 without a name or password, found "
            "something else; correct it, a key belongs into OPENAI_API_KEY"
        )
    return base_url
