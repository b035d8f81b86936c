"""Interpret a chat server's replies and errors: usable, worth a retry, or the user's to fix."""

import email.utils
import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gvvad_jax.command import UserError

if TYPE_CHECKING:
    import openai
    import pydantic

# Codes with which servers refuse one request's content with HTTP 400.
_REFUSALS = ("content_filter", "content_policy_violation", "invalid_prompt")
# Rate limits that no waiting lifts.
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached")
_TRANSIENT = (408, 409, 425, 429)
_MAX_SHOWN = 300  # characters of a server's own message
# Some chat templates open the thought in the question, so only its end is in the answer. A thought
# that never ends has no answer after it.
_THOUGHT = re.compile(r"\A.*</think>|<think>.*\Z", re.DOTALL)


class Failed(Exception):
    """No usable answer to a request after all attempts. Other requests are not affected.

    Attributes:
      name: the request's name.
      reason: why the last attempt failed, in one line.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


class UnusableReply(Exception):
    """A reply that is refused, cut short, or does not fit the schema.

    Attributes:
      server_trouble: the server has a problem, so that a retry should wait.
    """

    def __init__(self, reason: str, *, server_trouble: bool = False):
        super().__init__(reason)
        self.server_trouble = server_trouble


def parse_reply(
    reply: Mapping[str, Any], schema: "type[pydantic.BaseModel]"
) -> "tuple[pydantic.BaseModel, str]":
    """Returns (instance of the schema, its JSON text) from a chat completion.

    Raises:
      UnusableReply: it is an error, refused, cut short, empty, or does not fit the schema.
    """
    try:
        choice = reply["choices"][0]
        message, finish_reason = choice["message"], choice.get("finish_reason")
        content, refusal = _text(message.get("content")), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        if reply.get("error"):  # Routers pass on their providers' errors with HTTP 200.
            reason = _message(reply["error"]) or "no reason given"
            raise UnusableReply(
                f"the server reports an error: {reason}", server_trouble=True
            ) from error
        raise UnusableReply("the reply is not a chat completion") from error
    if refusal:
        raise UnusableReply(f"refused: {shorten(refusal)}")
    if finish_reason == "content_filter":
        raise UnusableReply("refused by the content filter")
    if finish_reason == "length":
        raise UnusableReply("cut short by the token limit; raise it in --sampling")
    if not content.strip():
        raise UnusableReply("the reply is empty")
    import pydantic

    try:
        return parse_content(content, schema)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole reply"
        raise UnusableReply(f"does not fit the schema: {place}: {shorten(first['msg'])}") from error


def parse_content(
    content: str, schema: "type[pydantic.BaseModel]"
) -> "tuple[pydantic.BaseModel, str]":
    """Returns (instance of the schema, the JSON that it was read from).

    Servers that do not enforce a schema may wrap the JSON in thoughts and code fences.

    Raises:
      pydantic.ValidationError: neither the content nor the JSON inside it fits the schema.
    """
    import pydantic

    try:
        return schema.model_validate_json(content), content
    except pydantic.ValidationError as error:
        if error.errors(include_input=False)[0]["type"] != "json_invalid":
            raise
        text = _THOUGHT.sub("", content)
        inner = text[text.find("{") : text.rfind("}") + 1]
        if not inner:
            raise
    return schema.model_validate_json(inner), inner


def _text(content: Any) -> str:
    """Returns the text of a message's content, a string or a list of parts; else ""."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [p.get("text") for p in parts if isinstance(p, Mapping) and p.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


def explain_error(
    error: "openai.OpenAIError", model: str, host: str, timeout: float
) -> tuple[str, float]:
    """Returns why a request failed that may be retried, and how long the server asks to wait.

    Args:
      error: what openai raised.
      model: name of the requested model.
      host: the server, for messages.
      timeout: seconds that the request waited for a byte.

    Returns:
      (reason in one line, seconds).

    Raises:
      UserError: a retry cannot fix the error.
    """
    import openai

    if isinstance(error, openai.APITimeoutError):
        return f"no reply within {timeout:g} s", 0.0
    if isinstance(error, openai.APIStatusError):
        reason = explain_status(error.status_code, error.body, model, host)
        return reason, _requested_wait(error.response.headers)
    return "the connection broke", 0.0


def reached_server(error: "openai.OpenAIError") -> bool:
    """Returns whether a server accepted the connection of the request that failed.

    A server that drops one request is there, and may answer another.
    """
    # By name, because the HTTP package beneath differs between versions of openai.
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")


def connection_error(error: Exception) -> UserError:
    """Returns the error for an openai client that could not be created.

    Args:
      error: what the HTTP package raised. Its message may repeat a proxy's password.
    """
    reason = str(error) if isinstance(error, ImportError) else type(error).__name__
    return UserError(
        "--base_url, ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE: expected an address, "
        f"proxies and certificates to connect with, found an invalid one ({reason}); correct or "
        "unset them"
    )


def explain_status(status: int, body: Any, model: str, host: str) -> str:
    """Returns the reason of an HTTP error that may pass; raises UserError for any other."""
    code, message = body.get("code") if isinstance(body, Mapping) else None, _message(body)
    if status in (401, 403):
        # Without the server's message, which may repeat the key.
        raise UserError(
            f"OPENAI_API_KEY: expected a key that {host} accepts for model {model!r}, found one "
            f"that it refuses (HTTP {status}); export the right key"
        )
    if status == 404:
        raise UserError(
            f"--chat_model, --base_url: expected a model that {host} serves, found HTTP 404 for "
            f"{model!r} ({message}); correct the name, or the address, which usually ends in /v1"
        )
    if code in _NO_CREDIT:
        raise UserError(
            f"{host}: expected an account with credit, found {code} ({message}); add credit and "
            "run the same command again"
        )
    if code in _REFUSALS:
        return f"refused: {message or code}"
    if status in _TRANSIENT or status >= 500:
        return f"HTTP {status}" + (f" ({message})" if message else "")
    raise UserError(
        f"{host}: expected the server to accept the request, found HTTP {status} ({message}); "
        "correct --sampling or --chat_model"
    )


def _message(body: Any) -> str:
    """Returns an error's message, shortened: OpenAI's field is message, FastAPI's detail."""
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail")
    return shorten(body or "")


def shorten(text: Any) -> str:
    """Returns a server's message in one short line, with the key masked."""
    text = " ".join(str(text).split())
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if key:
        text = text.replace(key, "<key>")
    return text[:_MAX_SHOWN]


def _requested_wait(headers: Mapping[str, str]) -> float:
    """Returns the seconds of Retry-After, a number or a date; 0 without a valid one."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers[name]) / unit
            return seconds if 0 < seconds < float("inf") else 0.0
        except (KeyError, ValueError):
            continue
    try:
        moment = email.utils.parsedate_to_datetime(headers["retry-after"])
        return max(0.0, moment.timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return 0.0
