"""Asking through the Batch API: a file of requests goes up, a file of answers comes down.

A batch's record lies beside the cache from before it is made until its answers are kept, so that a
killed command goes on with the same batch and pays nothing twice.
"""

import dataclasses
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import tqdm

from generation import chat_replies
from generation.chat_replies import Failed, Unusable
from gvvad_jax.annotations import read_json
from gvvad_jax.store import UserError, write_atomically

# What one file may hold at OpenAI is 50,000 requests and 200 MB.
MAX_LINES = 50_000
MAX_BYTES = 190_000_000
_ENDED = ("completed", "failed", "expired", "cancelled")


@dataclasses.dataclass
class _Batch:
    """One batch on its way, as its record has it.

    Attributes:
      path: of the record; the file of requests lies beside it.
      host: whose batch it is.
      keys: of the requests in it.
      file: id of the uploaded file, "" before.
      batch: the batch's id, "" before.
    """

    path: pathlib.Path
    host: str
    keys: list[str]
    file: str = ""
    batch: str = ""

    @property
    def requests(self) -> pathlib.Path:
        return self.path.with_suffix(".jsonl")

    def save(self) -> None:
        content = {k: v for k, v in dataclasses.asdict(self).items() if k != "path"}
        write_atomically(self.path, (json.dumps(content) + "\n").encode())

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.requests.unlink(missing_ok=True)


def ask_all(server: Any, requests: Sequence[Any], *, label: str, progress: bool) -> list[Any]:
    """What `chat.Server.ask_all` does, through batches.

    Lines that fail and the rest of an expired batch are asked again in another batch, at most
    `server.attempts` in all.

    Raises:
      UserError: the server refuses a batch or can't be reached; the same command goes on.
    """
    jobs = {server.key(request): request for request in requests}
    known = {key for key, job in jobs.items() if server.recall(key, job.schema, count=False)}
    with tqdm.tqdm(total=len(jobs), desc=label, unit="answer", disable=not progress) as bar:
        run = _Run(server, jobs, bar)
        run.rounds()
    outcomes = []
    for request in requests:
        key = server.key(request)
        answer = server.recall(key, request.schema, count=key in known)
        if answer is None:
            server.usage.add("failures")
            answer = Failed(request.name, run.reasons.get(key, "the batch has no line of it"))
        outcomes.append(answer)
    return outcomes


class _Run:
    """The batches of one call.

    Args:
      server: a chat.Server with a cache.
      jobs: chat.Request by key.
      bar: of progress.

    Attributes:
      reasons: why a key has no answer.
    """

    def __init__(self, server: Any, jobs: Mapping[str, Any], bar: tqdm.tqdm):
        self.server, self.jobs, self.bar = server, jobs, bar
        self.reasons: dict[str, str] = {}
        self._cancelled: set[str] = set()
        self._mistake: UserError | None = None
        self._folder = server.cache_dir / "batches"

    def rounds(self) -> None:
        """Asks until every request has its answer, or has had all its attempts."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(self.server.attempts):
            missing = self._missing()
            batches = self._begun(missing) if attempt == 0 else []
            covered = {key for batch in batches for key in batch.keys}
            lines = {key: self._line(key) for key in missing if key not in covered}
            batches += [self._write(chunk) for chunk in _chunks(lines)]
            if not batches:
                return
            self.server.usage.add("requests", len(lines))
            self.server.usage.add("retries", len(lines) if attempt else 0)
            for batch in batches:
                self._start(batch)
            for batch in batches:
                self._finish(batch)
            if self._mistake:
                raise self._mistake

    def _missing(self) -> list[str]:
        recall = self.server.recall
        missing = [k for k, job in self.jobs.items() if not recall(k, job.schema, count=False)]
        self._show(len(self.jobs) - len(missing))
        return [key for key in missing if key not in self._cancelled]

    def _show(self, done: int) -> None:
        self.bar.n = min(done, len(self.jobs))
        self.bar.refresh()

    def _begun(self, missing: Sequence[str]) -> list[_Batch]:
        """Batches of a command that was killed, as far as they answer what is missing here."""
        begun = []
        for path in sorted(self._folder.glob("*.json")):
            batch = _Batch(path, **read_json(path))
            if batch.host == self.server.host and set(batch.keys) & set(missing):
                begun.append(batch)
        return begun

    def _line(self, key: str) -> bytes:
        import openai

        request = self.jobs[key]
        # The strict form of the schema that chat.completions.parse sends.
        schema = openai.pydantic_function_tool(request.schema)["function"]["parameters"]
        name = request.schema.__name__
        body = {
            "model": self.server.model,
            "messages": list(request.messages),
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": name, "schema": schema, "strict": True},
            },
            **self.server.sampling,
        }
        line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(line).encode() + b"\n"

    def _write(self, lines: Mapping[str, bytes]) -> _Batch:
        name = hashlib.sha256("".join([self.server.host, *lines]).encode()).hexdigest()[:32]
        batch = _Batch(self._folder / f"{name}.json", self.server.host, list(lines))
        write_atomically(batch.requests, b"".join(lines.values()))
        batch.save()
        return batch

    def _start(self, batch: _Batch) -> None:
        """Uploads and creates what isn't yet; a kill in between loses at most an upload."""
        client = self.server.client()
        steps = {
            "file": lambda: client.files.create(file=batch.requests, purpose="batch"),
            "batch": lambda: _create(client, batch.file),
        }
        for step, make in steps.items():
            if getattr(batch, step):
                continue
            made = self._call(make)
            if made is None:
                batch.drop()
                raise UserError(
                    f"--batch: expected a Batch API at {self.server.host}, found HTTP 404; ask "
                    "without --batch"
                )
            setattr(batch, step, made.id)
            batch.save()

    def _finish(self, batch: _Batch) -> None:
        """Waits for a batch and keeps its answers."""
        client, done = self.server.client(), self.bar.n
        while True:
            found = self._call(lambda: client.batches.retrieve(batch.batch))
            if found is None or found.status in _ENDED:
                break
            self._show(done + (found.request_counts.completed if found.request_counts else 0))
            time.sleep(self.server.batch_poll)
        if found is None:
            print(f"batch {batch.batch}: no longer there, asked again", file=sys.stderr)
        else:
            for file in filter(None, (found.output_file_id, found.error_file_id)):
                content = self._call(lambda file=file: client.files.content(file))
                # Not splitlines: JSON's texts may hold other ends of lines, such as U+2028.
                for line in content.text.split("\n") if content else ():
                    self._take(line, set(batch.keys))
            self._judge(batch, found)
        batch.drop()

    def _judge(self, batch: _Batch, found: Any) -> None:
        """What the end of a batch says about what it left unanswered."""
        if found.status == "failed":
            errors = (found.errors and found.errors.data) or []
            message = chat_replies.shown(errors[0].message) if errors else "no reason given"
            self._mistake = UserError(
                f"--batch: expected {self.server.host} to take the batch, found it failed "
                f"({message}); correct that, or ask without --batch"
            )
        for key in batch.keys:
            if found.status == "cancelled":
                self._cancelled.add(key)
            self.reasons.setdefault(key, f"the batch is {found.status} without it")

    def _take(self, line: str, keys: Set[str]) -> None:
        """Keeps the answer of one line, or the reason why there is none."""
        try:
            entry = json.loads(line)
            key, response, error = (entry.get(n) for n in ("custom_id", "response", "error"))
        except (ValueError, AttributeError, RecursionError):
            return
        # A batch may answer more than is asked now; kept all the same.
        schema = self.jobs[key].schema if key in self.jobs else None
        if key not in keys or self.server.recall(key, schema, count=False):
            return
        status = response.get("status_code", 0) if isinstance(response, dict) else 0
        body = response.get("body") if status else None
        server = self.server
        try:
            if status == 200:
                server.accept(key, schema, body)
                self.reasons.pop(key, None)
            elif status:
                error = body.get("error", body) if isinstance(body, dict) else body
                self.reasons[key] = chat_replies.explain_status(
                    status, error, server.model, server.host
                )
            else:
                error = error if isinstance(error, dict) else {}
                self.reasons[key] = chat_replies.shown(error.get("message") or error.get("code"))
        except Unusable as unusable:
            self.reasons[key] = str(unusable)
        except UserError as mistake:  # of all lines alike; raised once the others are kept
            self._mistake = mistake

    def _call(self, send: Callable[[], Any]) -> Any:
        """What `send` returns, None where the server knows no such thing."""
        import openai

        def sent() -> Any:
            try:
                return send()
            except openai.NotFoundError:
                return None

        try:
            return self.server.persist("batch", sent, count=False)
        except Failed as failed:
            raise UserError(
                f"--batch: expected {self.server.host} to answer, found {failed.reason}; the "
                "same command goes on with the same batch"
            ) from failed


def _create(client: Any, file: str) -> Any:
    """The batch of an uploaded file: one that an earlier try made unheard, or a new one."""
    import openai

    try:
        for batch in client.batches.list(limit=100).data:
            if batch.input_file_id == file:
                return batch
    except openai.APIStatusError as error:
        if error.status_code not in (404, 405, 501):  # a server that lists none
            raise
    return client.batches.create(
        input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
    )


def _chunks(lines: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    chunk: dict[str, bytes] = {}
    size = 0
    for key, line in lines.items():
        if chunk and (len(chunk) >= MAX_LINES or size + len(line) > MAX_BYTES):
            yield chunk
            chunk, size = {}, 0
        chunk[key] = line
        size += len(line)
    if chunk:
        yield chunk
