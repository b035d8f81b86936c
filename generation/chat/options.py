"""The flags of a server that answers: one for descriptions and for captions by a vision model."""

import dataclasses
import os
from typing import Any

from gvvad_jax.command import check, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """Which server and how to ask it, in plain values; see chat.Server.

    How it is asked doesn't change what it says; which model and with what sampling does.
    """

    chat_model: str = option("", "chat: the server's name of the model")
    base_url: str = option(
        "",
        "chat: of an OpenAI-compatible server, e.g. http://localhost:8000/v1; OpenAI's own unless "
        "told. OPENAI_API_KEY is sent there; a local server may need none",
        free=True,
    )
    sampling: str = option("{}", 'chat: JSON fields of the request, e.g. {"temperature": 1.0}')
    cache: str = option(
        "", "chat: folder of answers; beside --out, ending in .answers, unless told", free=True
    )
    max_concurrent: int = option(8, "chat: requests in flight", low=1, free=True)
    attempts: int = option(
        4, "chat: answers a pair and requests an answer may take", low=1, free=True
    )
    timeout: float = option(120.0, "chat: seconds that a request may be silent", low=1, free=True)
    backoff: float = option(
        1.0, "chat: seconds before the first retry, doubled each time", low=0, free=True
    )
    price_input: float | None = option(
        None, "chat: dollars per million tokens asked", low=0, free=True
    )
    price_output: float | None = option(
        None, "chat: dollars per million tokens answered", low=0, free=True
    )

    def __post_init__(self):
        check(self)

    def server_settings(self, out: str | os.PathLike) -> dict[str, Any]:
        """Arguments of `chat.Server`, plain values; answers are kept beside `out` unless told.

        Raises:
          UserError: --sampling isn't JSON fields.
        """
        from generation.chat import client

        return {
            "model": self.chat_model,
            "base_url": self.base_url or None,
            "sampling": client.parse_sampling(self.sampling),
            "cache_dir": self.cache or f"{os.path.splitext(out)[0]}.answers",
            "max_concurrent": self.max_concurrent,
            "attempts": self.attempts,
            "timeout": self.timeout,
            "backoff": self.backoff,
            "price_input": self.price_input,
            "price_output": self.price_output,
        }
