"""Ask an OpenAI-compatible server for answers that fit a pydantic schema.

    server = client.Server(ChatOptions(chat_model="MODEL", cache="answers"))
    request = client.Request("scene 3", [{"role": "user", "content": "..."}], Scene)
    (answer,) = server.ask_all([request])

The key is read from OPENAI_API_KEY and stored nowhere. Answers are cached on disk under a hash of
the request, so a second run sends no requests and a killed run loses no answers.
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
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import tqdm

from generation.chat import replies
from generation.chat.options import ChatOptions
from generation.chat.replies import Failed, UnusableReply
from generation.chat.usage import Usage, token_counts
from gvvad_jax.command import UserError
from gvvad_jax.store import digests
from gvvad_jax.store.files import read_json_as, write_atomically

if TYPE_CHECKING:
    import openai
    import pydantic

Result = TypeVar("Result")
_JITTER = 0.25


@dataclasses.dataclass(frozen=True)
class Request:
    """One question.

    Attributes:
      name: what messages to people call it; the server does not see it.
      messages: as the API takes them. An image is {"type": "image_url", "image_url": {"url":
        "data:image/png;base64,..."}} among the parts of a message's content.
      schema: pydantic model that the answer must fit.
    """

    name: str
    messages: Sequence[Mapping[str, Any]]
    schema: "type[pydantic.BaseModel]"


@dataclasses.dataclass(frozen=True)
class Answer:
    """The usable answer to a request.

    Attributes:
      value: an instance of the request's schema.
      model: the model name in the reply, often longer than the requested one.
      content: the answer's text, JSON.
    """

    value: "pydantic.BaseModel"
    model: str
    content: str


class CachedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it is kept on disk.

    Attributes:
      content, model: see Answer.
      usage: token counts; see `usage.token_counts`.
    """

    content: str
    model: str
    usage: dict[str, int] = {}


class Server:
    """An OpenAI-compatible server. Any thread may ask it.

    Args:
      options: the server, its model and how to ask. Without `options.cache` no answer is kept.

    Attributes:
      model, sampling: the model's name and the request fields, {} if there are none: models differ
        in the fields they take.
      usage: requests, tokens and dollars so far.

    Raises:
      UserError: no model or a wrong address is given, or the openai package is missing.
    """

    # No retry waits longer (apart from jitter), whatever the server asks for.
    longest_wait = 60.0  # seconds

    def __init__(self, options: ChatOptions):
        if importlib.util.find_spec("openai") is None:
            raise UserError(
                "--chat_model: expected the openai package, found none; pip install '.[generation]'"
            )
        if not options.chat_model:
            raise UserError("--chat_model: expected the name of a model, found none; give one")
        self.model, self.sampling = options.chat_model, options.sampling_fields()
        self.usage = Usage(options.price_input, options.price_output)
        self._options = options
        self._base_url = _checked_url(options.base_url)
        self._cache = pathlib.Path(options.cache) if options.cache else None
        self._slots = threading.BoundedSemaphore(options.max_concurrent)
        self._lock = threading.Lock()
        self._lock_by_key: dict[str, threading.Lock] = {}
        self._client: openai.OpenAI | None = None
        self._reached = False

    def ask_all(
        self, requests: Sequence[Request], *, label: str = "answers", progress: bool = True
    ) -> list[Answer | Failed]:
        """Returns one outcome per request, in the order of the requests.

        Args:
          requests: questions; with a cache, equal ones are asked once.
          label: title of the progress bar.
          progress: whether to show a progress bar on standard error.

        Raises:
          UserError: an error that a retry cannot fix: the key, the model's name, a field of the
            request. With a cache, earlier answers are kept.
        """
        stop = threading.Event()

        def outcome(request: Request) -> Answer | Failed:
            try:
                return self._answer(request, stop)
            except Failed as failed:
                return failed

        with (
            concurrent.futures.ThreadPoolExecutor(self._options.max_concurrent) as pool,
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

    @property
    def host(self) -> str:
        """The host that requests go to, for messages."""
        return urllib.parse.urlsplit(self._base_url).netloc if self._base_url else "api.openai.com"

    def client(self) -> "openai.OpenAI":
        """Returns the client that sends the requests, created on the first call.

        Raises:
          UserError: OPENAI_API_KEY is missing or malformed, or the address or a proxy is invalid.
        """
        with self._lock:
            if self._client is None:
                import openai

                key = os.environ.get("OPENAI_API_KEY", "").strip()
                if not key and not self._base_url:
                    raise UserError(
                        "OPENAI_API_KEY: expected a key in the environment, found none; export "
                        "one, or give the --base_url of a server that needs none"
                    )
                if not (key.isascii() and key.isprintable() and len(key.split()) < 2):
                    raise UserError(
                        "OPENAI_API_KEY: expected plain ASCII without spaces, found something "
                        "else; export the key again"
                    )
                try:
                    self._client = openai.OpenAI(
                        api_key=key or "none",
                        base_url=self._base_url,
                        timeout=self._options.timeout,
                        # `_with_retries` retries. The SDK would wait as long as the server asks.
                        max_retries=0,
                    )
                except Exception as error:  # The HTTP package beneath raises many kinds.
                    raise replies.connection_error(error) from error
            return self._client

    def _cache_key(self, request: Request) -> str:
        """Returns the digest of all that is asked: model, messages, schema and sampling."""
        schema = request.schema.model_json_schema()
        return digests.of_json([self.model, list(request.messages), schema, self.sampling])

    def _cache_path(self, key: str) -> pathlib.Path:
        return self._cache / key[:2] / f"{key}.json"

    def _answer(self, request: Request, stop: threading.Event) -> Answer:
        key = self._cache_key(request)
        with self._lock:
            lock = self._lock_by_key.setdefault(key, threading.Lock())
        with lock:  # Another thread with the same question then finds the answer in the cache.
            answer = self._cached_answer(key, request.schema)
            if answer is None:
                answer = self._with_retries(request.name, lambda: self._send(key, request), stop)
            return answer

    def _send(self, key: str, request: Request) -> Answer:
        raw = self.client().chat.completions.with_raw_response.parse(
            model=self.model,
            messages=list(request.messages),
            response_format=request.schema,
            extra_body=self.sampling,  # The SDK would refuse fields that only this server knows.
        )
        # Parsed here, because the SDK's parsing loses the token counts of unusable replies.
        try:
            reply = raw.http_response.json()
        except (ValueError, RecursionError) as error:
            raise UnusableReply("the reply is not JSON") from error
        return self._accept(key, request.schema, reply)

    def _accept(self, key: str, schema: "type[pydantic.BaseModel]", reply: Any) -> Answer:
        """Reads a chat completion, counts its tokens and caches the answer.

        Raises:
          UnusableReply: it is refused, cut short, or does not fit the schema.
        """
        reply = reply if isinstance(reply, dict) else {}
        usage = reply.get("usage")
        if usage or not reply.get("error"):  # A mere error costs nothing.
            self.usage.add_tokens(usage)
        value, content = replies.parse_reply(reply, schema)
        answer = Answer(value, str(reply.get("model") or self.model), content)
        if self._cache:
            record = {
                "content": answer.content,
                "model": answer.model,
                "usage": token_counts(usage),
            }
            self._cache_path(key).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._cache_path(key), (json.dumps(record) + "\n").encode())
        return answer

    def _cached_answer(self, key: str, schema: "type[pydantic.BaseModel]") -> Answer | None:
        """Returns the cached answer, or None if there is none or it does not fit the schema."""
        if not self._cache:
            return None
        try:
            record = read_json_as(self._cache_path(key), CachedAnswer, "an answer", "remove it")
            value, content = replies.parse_content(record.content, schema)
        except ValueError:  # It is asked for again.
            return None
        answer = Answer(value, record.model, content)
        self.usage.add_hit(record.usage)
        return answer

    def _with_retries(self, name: str, send: Callable[[], Result], stop: threading.Event) -> Result:
        """Calls `send` until it returns, at most `attempts` times, with waits in between.

        Args:
          name: the request's name, for the error.
          send: sends one request; raises UnusableReply or an error of openai.
          stop: once it is set, nothing is retried.

        Raises:
          Failed: the last attempt failed.
          UserError: an error that a retry cannot fix.
        """
        import openai

        options = self._options
        for attempt in range(options.attempts):
            self.usage.add("requests")
            if attempt:
                self.usage.add("retries")
            requested_wait = 0.0
            try:
                with self._slots:
                    result = send()
                self._reached = True
                return result
            except UnusableReply as error:
                self._reached, reason, must_wait = True, str(error), error.server_trouble
            except openai.OpenAIError as error:
                reason, requested_wait = replies.explain_error(
                    error, self.model, self.host, options.timeout
                )
                self._reached |= replies.reached_server(error)
                must_wait = True
            wait = min(max(options.backoff * 2**attempt, requested_wait), self.longest_wait)
            is_last = attempt + 1 == options.attempts
            if is_last or stop.wait(must_wait * wait * (1 + _JITTER * random.random())):
                break
        self.usage.add("failures")
        if not self._reached:
            raise UserError(
                f"--base_url: expected an OpenAI-compatible server at {self.host}, found none "
                f"that answers ({reason}, {attempt + 1} times); start it or correct the address"
            )
        raise Failed(name, f"{reason}; tried {attempt + 1} times")


def _checked_url(base_url: str) -> str | None:
    """Returns the address, else the environment's, else None.

    Raises:
      UserError: it is no http(s) address. The message leaves it out: it may hold a password.
    """
    name = "--base_url" if base_url else "OPENAI_BASE_URL"
    base_url = base_url or os.environ.get(name, "")
    if not base_url:
        return None
    try:
        parts = urllib.parse.urlsplit(base_url)
        # The host's encoding and the port raise ValueError if they are invalid.
        host, _ = (parts.hostname or "").encode("idna"), parts.port
        valid = host and parts.scheme in ("http", "https") and "@" not in parts.netloc
    except ValueError:
        valid = False
    if not valid or " " in base_url or not base_url.isprintable():
        raise UserError(
            f"{name}: expected http(s)://HOST[:PORT]/v1 without a name or password, found "
            "something else; correct it, and put a key into OPENAI_API_KEY"
        )
    return base_url
