"""Descriptions by a language model, written to their file."""

import os
import pathlib
import sys
from typing import Any

from generation.chat.options import ChatOptions
from generation.prompts.descriptions import print_coverage, save_descriptions


def write_by_chat(
    out: str | os.PathLike,
    num_pairs: int,
    seed: int,
    asked: ChatOptions,
    *,
    clip_tokenizer: str = "",
    allow_missing: int = 0,
) -> dict[str, Any]:
    """Has a language model write pairs; see prompts_chat.write_chat.

    Args:
      out: the file to write; what isn't complete goes to *.incomplete.jsonl beside it instead.
      num_pairs, seed: as for `write_grammar`.
      asked: the server.
      clip_tokenizer: folder of a CLIP tokenizer that measures phrases exactly.
      allow_missing: pairs that may be missing from a complete file.

    Returns:
      {out, complete, descriptions, missing: {name: reason}, remedy, usage}.

    Raises:
      UserError: a server that can't be used.
    """
    from generation.chat import client
    from generation.prompts import by_chat

    out = pathlib.Path(out)
    server = client.Server(**asked.server_settings(out))
    written = by_chat.write_chat(
        num_pairs, seed, server, attempts=asked.attempts, clip_tokenizer=clip_tokenizer
    )
    complete = len(written.missing) <= allow_missing and bool(written.descriptions)
    incomplete = out.with_suffix(f".incomplete{out.suffix}")
    path = out if complete else incomplete
    incomplete.unlink(missing_ok=True)
    if written.descriptions:
        save_descriptions(path, written.descriptions)
    print_coverage(written.descriptions)
    for name, reason in written.missing.items():
        print(f"missing {name}: {' '.join(reason.split())}", file=sys.stderr)
    return {
        "out": str(path) if written.descriptions else None,
        "complete": complete,
        "descriptions": len(written.descriptions),
        "missing": written.missing,
        "remedy": "" if complete else written.remedy(asked.attempts),
        "usage": server.usage.to_json(),
    }
