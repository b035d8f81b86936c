"""What replies and errors of a chat server mean: usable, worth another try, the user's to mend."""

import email.utils
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from gvvad_jax.command import UserError

# Codes by which servers refuse one request's content with HTTP 400.
_REFUSALS = ("content_filter", "content_policy_violation", "invalid_prompt")
# Rate limits that waiting doesn't lift.
_EMPTY = ("insufficient_quota", "billing_hard_limit_reached")
_TRANSIENT = (408, 409, 425, 429)
_SHOWN = 300  # characters of a server's own message
# Some templates open the thought in the question; one that never closes holds no answer.
_THOUGHT = re.compile(r"\A.*</think>|<think>.*\Z", re.DOTALL)


class Failed(Exception):
    """A request without a usable answer after all its attempts; the others go on.

    Attributes:
      name: of the request.
      reason: of the last attempt, in one line.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


class Unusable(Exception):
    """A reply that can't be used: refused, cut short, or not what the schema asks for.

    Attributes:
      later: the server is in trouble, and asking again at once is of no use.
    """

    def __init__(self, reason: str, *, later: bool = False):
        super().__init__(reason)
        self.later = later


def read(reply: Mapping[str, Any], schema: type) -> tuple[Any, str]:
    """(instance of the schema, its text) out of a chat completion.

    Raises:
      Unusable: an error, refused, cut short, empty, or not what the schema asks for.
    """
    try:
        choice = reply["choices"][0]
        message, ending = choice["message"], choice.get("finish_reason")
        content, refusal = _text(message.get("content")), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        if reply.get("error"):  # Routers pass on their providers' errors with HTTP 200.
            told = _message(reply["error"]) or "no reason given"
            raise Unusable(f"the server tells of an error: {told}", later=True) from error
        raise Unusable("the reply is no chat completion") from error
    if refusal:
        raise Unusable(f"refused: {shown(refusal)}")
    if ending == "content_filter":
        raise Unusable("refused by the content filter")
    if ending == "length":
        raise Unusable("cut short by the limit of tokens; raise it in --sampling")
    if not content.strip():
        raise Unusable("the reply is empty")
    import pydantic

    try:
        return fit(content, schema)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise Unusable(f"not what the schema asks for: {place}: {shown(first['msg'])}") from error


def fit(content: str, schema: type) -> tuple[Any, str]:
    """(instance of the schema, the JSON it was read from).

    Where no schema is enforced, open models think aloud first, and put JSON between fences.

    Raises:
      pydantic.ValidationError: neither the content nor the JSON inside is what the schema asks for.
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
    """A message's content, a text or a list of parts; "" for anything else."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [p.get("text") for p in parts if isinstance(p, Mapping) and p.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


def explain(error: Exception, model: str, host: str, timeout: float) -> tuple[str, float]:
    """What became of a request that openai raised an error for.

    Args:
      error: an openai.OpenAIError.
      model: that was asked.
      host: of the server, for messages.
      timeout: seconds waited for.

    Returns:
      (reason in one line, seconds that the server asks to wait): it is worth another try.

    Raises:
      UserError: no retry mends it.
    """
    import openai

    if isinstance(error, openai.APITimeoutError):
        return f"no reply within {timeout:g} s", 0.0
    if isinstance(error, openai.APIStatusError):
        reason = explain_status(error.status_code, error.body, model, host)
        return reason, _seconds(error.response.headers)
    return "the connection broke", 0.0


def reached(error: Exception) -> bool:
    """Whether an openai.OpenAIError came from a server that took the connection.

    One that drops a request is there; another request of the same moment may be answered.
    """
    # By name: the HTTP package beneath is another one from version to version of openai.
    return type(error.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")


def no_client(error: Exception) -> UserError:
    """Why openai could make no client.

    Args:
      error: of the HTTP package. Its words may repeat a proxy's password.
    """
    told = str(error) if isinstance(error, ImportError) else type(error).__name__
    return UserError(
        "--base_url, ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE: expected an address, "
        f"proxies and certificates to connect with, found others ({told}); correct or unset them"
    )


def explain_status(status: int, body: Any, model: str, host: str) -> str:
    """The reason of an HTTP error that may pass; UserError for one that doesn't."""
    code, message = body.get("code") if isinstance(body, Mapping) else None, _message(body)
    if status in (401, 403):
        # Without the server's message: it may repeat the key.
        raise UserError(
            f"OPENAI_API_KEY: expected a key that {host} accepts for model {model!r}, found it "
            f"refused (HTTP {status}); export the right one"
        )
    if status == 404:
        raise UserError(
            f"--chat_model, --base_url: expected a model that {host} serves, found HTTP 404 for "
            f"{model!r} ({message}); correct the name, or the address, which usually ends in /v1"
        )
    if code in _EMPTY:
        raise UserError(
            f"{host}: expected an account with credit, found {code} ({message}); top it up and "
            "run the same command again"
        )
    if code in _REFUSALS:
        return f"refused: {message or code}"
    if status in _TRANSIENT or status >= 500:
        return f"HTTP {status}" + (f" ({message})" if message else "")
    raise UserError(
        f"{host}: expected a request that it takes, found HTTP {status} ({message}); correct "
        "--sampling or --chat_model"
    )


def _message(body: Any) -> str:
    """An error's own words, shown; OpenAI's are its message, FastAPI's its detail."""
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail")
    return shown(body or "")


def shown(text: Any) -> str:
    """A server's words in one short line, without the key should they repeat it."""
    text = " ".join(str(text).split())
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if key:
        text = text.replace(key, "<key>")
    return text[:_SHOWN]


def _seconds(headers: Mapping[str, str]) -> float:
    """Retry-After, a number or a date; 0 where there is none that makes sense."""
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
