"""Flags that name a chat server and say how to ask it, shared by descriptions and captions."""

import dataclasses
import json
import os
from typing import Any, Self

from gvvad_jax.command import UserError, check, group

CHAT = group("Chat server")
# The client sets these fields of a request itself.
_RESERVED = ("model", "messages", "response_format", "stream", "n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """A chat server and how to ask it; see `client.Server`.

    The model and its sampling change the answers and must not change when a run is resumed; the
    other fields may.
    """

    chat_model: str = CHAT(
        "", "Model name on the chat server; required where a server writes or captions."
    )
    base_url: str = CHAT(
        "",
        "Address of an OpenAI-compatible server, e.g. http://localhost:8000/v1 (default: "
        "OPENAI_BASE_URL, else OpenAI's own). OPENAI_API_KEY is sent to it; a local server may "
        "need no key.",
        free=True,
    )
    sampling: str = CHAT("{}", 'Request fields as JSON, e.g. {"temperature": 1.0}.')
    cache: str = CHAT(
        "",
        "Folder of cached answers (default: the output's path with the ending .answers).",
        free=True,
    )
    max_concurrent: int = CHAT(8, "Requests in flight at once.", low=1, free=True)
    attempts: int = CHAT(
        4,
        "Attempts per request, and answers asked for per pair of descriptions before it is given "
        "up.",
        low=1,
        free=True,
    )
    timeout: float = CHAT(
        120.0, "Seconds without a byte before a request counts as lost.", low=1, free=True
    )
    backoff: float = CHAT(
        1.0,
        "Seconds before the first retry; each further retry waits twice as long.",
        low=0,
        free=True,
    )
    price_input: float | None = CHAT(
        None, "Dollars per million input tokens (default: unknown).", low=0, free=True
    )
    price_output: float | None = CHAT(
        None, "Dollars per million output tokens (default: unknown).", low=0, free=True
    )

    def __post_init__(self):
        check(self)

    def with_cache(self, out: str | os.PathLike) -> Self:
        """Returns the options with a folder for answers: beside `out` unless --cache names one."""
        return dataclasses.replace(self, cache=self.cache or f"{os.path.splitext(out)[0]}.answers")

    def sampling_fields(self) -> dict[str, Any]:
        """Parses --sampling, e.g. '{"temperature": 1.0, "max_completion_tokens": 800}'.

        Raises:
          UserError: the flag is not a JSON object, or it sets a field that the client sets.
        """
        try:
            fields = json.loads(self.sampling)
        except ValueError:
            fields = None
        if not isinstance(fields, dict) or set(fields) & set(_RESERVED):
            raise UserError(
                f"--sampling: expected a JSON object without {', '.join(_RESERVED)}, found "
                f'{self.sampling!r}; give other fields, such as {{"temperature": 1.0}}'
            )
        return fields
