"""Twin descriptions written by a language model behind an OpenAI-compatible API.

The plan (`slots`) fixes the class, viewpoint and location of each pair; the model writes the
subject, both events and the texts. Every answer is checked. A faulty one is asked for again, with
its faults named. Pairs that stay faulty are reported by name, and the others are kept.
"""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic

from generation.chat import client
from generation.chat.options import ChatOptions
from generation.prompts import checks
from generation.prompts.descriptions import (
    CLASSES,
    Description,
    print_coverage,
    require_own,
    save_descriptions,
)
from generation.prompts.slots import Slot, plan_slot
from gvvad_jax.command import UserError

# Raise it with every change to a word of the request.
CHAT_TEMPLATE_VERSION = 1
_MEANINGS = {
    "Abuse": "someone who can't fight back, young, old, ill or an animal, is hurt",
    "Arrest": "police seize somebody who resists or flees",
    "Arson": "someone sets a place or a thing on fire on purpose",
    "Assault": "someone attacks another person who doesn't strike back",
    "Burglary": "someone breaks into a building to take things, nobody being there",
    "Explosion": "something blows up, with a flash, fire or smoke",
    "Fighting": "people strike or wrestle each other, both sides taking part",
    "RoadAccidents": "vehicles crash, or run somebody over",
    "Robbery": "someone takes money or goods from people by force or threat",
    "Shooting": "someone fires a gun at people",
    "Shoplifting": "a customer of an open shop hides goods or runs off with them",
    "Stealing": "someone takes a vehicle or another's belongings unobserved or on the run",
    "Vandalism": "someone damages or defaces property on purpose",
}
_SYSTEM = """\
You write scenes for training a detector of anomalies in surveillance video. A text-to-video model
will film each description, so tell what a fixed camera sees, concretely and in present tense.

You are given a class of anomaly, a viewpoint and a location. Write twins: an abnormal scene of
that class, and a normal one that shares viewpoint, location and subject and differs in the event
alone. For each twin give
- label: abnormal or normal;
- viewpoint and location: word for word as given;
- subject: who or what acts, a few words, the same in both twins, and innocent in itself: nobody is
  masked, armed or called a criminal;
- event: what the subject does, a verb phrase ending in -ing forms, visible from afar through large
  motion in the abnormal twin, everyday in the normal one;
- description: one paragraph of 40 to 90 plain words that repeats the words of viewpoint, location
  and subject, and adds light, surroundings and how the motion goes;
- phrase: subject, event and location in at most 20 words.

Neither the normal twin nor the subject mentions violence, weapons, crime, crashes, flames or
injuries, not even to deny them. No text calls a scene normal, abnormal or an anomaly. No gore, no
names of people or brands, no text on screen, no cuts, one continuous view.
Name the class in anomaly_class exactly as given.
"""
_USER = """\
Class: {cls} ({meaning})
Viewpoint: {viewpoint}
Location: {location}
Take: {take}
"""
_LATER_TAKE = """\
Earlier takes filmed the subjects and events that first come to mind here; find others.
"""
_AGAIN = """\
That can't be used:
{faults}
Write both twins again, for the same class, viewpoint and location.
"""
_PLAIN = str.maketrans("‘’“”–—", "''\"\"--")


def _cleaned(text: str) -> str:
    text = " ".join(text.translate(_PLAIN).split())
    if not text:
        raise ValueError("it is empty")
    return text


Text = Annotated[str, pydantic.AfterValidator(_cleaned)]


class Twin(pydantic.BaseModel):
    """One video of a pair, as the model writes it; see `descriptions.Description`."""

    model_config = pydantic.ConfigDict(extra="forbid")

    label: Literal["abnormal", "normal"]
    viewpoint: Text
    location: Text
    subject: Text
    event: Text
    description: Text
    phrase: Text


class Pair(pydantic.BaseModel):
    """The model's answer: both twins of a pair."""

    model_config = pydantic.ConfigDict(extra="forbid")

    anomaly_class: Literal[CLASSES]
    abnormal: Twin
    normal: Twin


@dataclasses.dataclass(frozen=True)
class WrittenPairs:
    """The pairs that a model wrote, and those that are missing.

    Attributes:
      descriptions: abnormal, normal, abnormal, normal ... in the plan's order.
      missing: why a pair is missing, by its name, e.g. "Fighting-0003".
      unanswered: names of the missing pairs whose last request had no usable answer.
    """

    descriptions: list[Description]
    missing: dict[str, str]
    unanswered: frozenset[str] = frozenset()

    def remedy(self, attempts: int) -> str:
        """Returns, for messages, how to get the missing pairs.

        Cached answers count as attempts, so the same command never asks for them again.

        Args:
          attempts: answers that were asked for per pair.
        """
        answered = len(self.missing) - len(self.unanswered)
        again = f"the same command asks again for {len(self.unanswered)} without an answer"
        more = f"--attempts={2 * attempts} asks again for {answered} answered wrongly"
        remedies = [again] * bool(self.unanswered) + [more] * bool(answered)
        return ", ".join([*remedies, "--allow_missing does without them"])


@dataclasses.dataclass
class _Draft:
    """One pair while it is being written.

    Attributes:
      slot: its place in the plan.
      messages: the conversation so far.
      attempts: number of requests so far.
      answer: the latest answer, or why there is none.
      fault: what is wrong with the answer; "" if nothing is.
    """

    slot: Slot
    messages: list[Mapping[str, str]]
    attempts: int = 0
    answer: client.Answer | client.Failed | None = None
    fault: str = ""


def write_pairs(
    num_pairs: int,
    seed: int,
    server: client.Server,
    *,
    classes: Sequence[str] = CLASSES,
    attempts: int = 4,
    clip_tokenizer: str | os.PathLike = "",
    progress: bool = True,
) -> WrittenPairs:
    """Has a language model write twins, planned like those of `grammar.write_grammar`.

    Ids, seeds, viewpoints and locations depend on the number and the seed alone; the words are the
    model's. In each round every pair is compared with the pairs before it in the plan, so neither
    the order in which answers arrive nor the pairs that follow matter. If the server has a cache,
    the same call sends no request twice.

    Args:
      num_pairs: number of pairs of twins.
      seed: seed of the plan, 0 or more.
      server: the server of the model.
      classes: what the pairs are about, in turns.
      attempts: answers asked for per pair, the first included. (The server's own attempts are
        requests per answer.)
      clip_tokenizer: folder of a CLIP tokenizer that measures phrases exactly; without it, an upper
        bound is computed from their letters.
      progress: whether to show progress bars on standard error.

    Raises:
      UserError: a number is out of range, the tokenizer is missing, or the server reports an error
        that a retry cannot fix.
    """
    if num_pairs < 1 or seed < 0 or attempts < 1:
        raise UserError(
            "--num_pairs, --seed, --attempts: expected at least 1, 0 and 1, found "
            f"{num_pairs}, {seed} and {attempts}; correct them"
        )
    count_phrase = load_token_counter(clip_tokenizer) if clip_tokenizer else checks.token_bound
    slots = [plan_slot(index, seed, classes) for index in range(num_pairs)]
    drafts = [_Draft(slot, first_messages(slot)) for slot in slots]
    open_drafts = drafts
    while open_drafts:
        requests = [client.Request(draft.slot.name, draft.messages, Pair) for draft in open_drafts]
        label = "descriptions" if open_drafts is drafts else "descriptions again"
        answers = server.ask_all(requests, label=label, progress=progress)
        for draft, answer in zip(open_drafts, answers, strict=True):
            draft.answer, draft.attempts = answer, draft.attempts + 1
        _find_faults(drafts, count_phrase)
        open_drafts = [draft for draft in drafts if _may_ask_again(draft, attempts)]
        for draft in open_drafts:
            draft.messages = [*draft.messages, *_reply(draft)]
    return WrittenPairs(
        [line for draft in drafts if not draft.fault for line in _descriptions(draft)],
        {draft.slot.name: draft.fault for draft in drafts if draft.fault},
        frozenset(d.slot.name for d in drafts if isinstance(d.answer, client.Failed)),
    )


def write_file(
    out: str | os.PathLike,
    num_pairs: int,
    seed: int,
    options: ChatOptions,
    *,
    classes: Sequence[str] = CLASSES,
    clip_tokenizer: str = "",
    allow_missing: int = 0,
) -> dict[str, Any]:
    """Has a language model write pairs, and writes them to a prompts.jsonl.

    Args:
      out: the file. An incomplete set goes to *.incomplete.jsonl beside it instead.
      num_pairs, seed, classes, clip_tokenizer: see `write_pairs`.
      options: the server. Its answers are cached beside `out` unless the options name a folder.
      allow_missing: number of pairs that may be missing from a complete set.

    Returns:
      {out, complete, descriptions, missing: {name: reason}, remedy, usage}.

    Raises:
      UserError: the server cannot be used, or other files would be overwritten.
    """
    out = pathlib.Path(out)
    incomplete_path = out.with_suffix(f".incomplete{out.suffix}")
    for path in (out, incomplete_path):
        require_own(path)
    server = client.Server(options.with_cache(out))
    written = write_pairs(
        num_pairs,
        seed,
        server,
        classes=classes,
        attempts=options.attempts,
        clip_tokenizer=clip_tokenizer,
    )
    complete = len(written.missing) <= allow_missing and bool(written.descriptions)
    path = out if complete else incomplete_path
    incomplete_path.unlink(missing_ok=True)
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
        "remedy": "" if complete else written.remedy(options.attempts),
        "usage": server.usage.to_json(),
    }


def first_messages(slot: Slot) -> list[Mapping[str, str]]:
    """Returns the messages that ask for a pair."""
    question = _USER.format(
        cls=slot.cls,
        meaning=_MEANINGS[slot.cls],
        viewpoint=slot.viewpoint,
        location=slot.location,
        take=slot.visit + 1,
    )
    return [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": question + (_LATER_TAKE if slot.visit else "")},
    ]


def _find_faults(drafts: Sequence[_Draft], count_phrase: Callable[[str], int]) -> None:
    """Records what is wrong with each latest answer, by itself and next to the earlier pairs."""
    earlier = checks.EarlierPairs()
    for draft in drafts:
        if isinstance(draft.answer, client.Failed):
            draft.fault = draft.answer.reason
            continue
        pair = draft.answer.value
        faults = checks.pair_faults(pair, draft.slot, count_phrase)
        draft.fault = "\n".join(faults) or earlier.fault(pair, draft.slot)
        if not draft.fault:
            earlier.add(pair, draft.slot)


def _may_ask_again(draft: _Draft, attempts: int) -> bool:
    return bool(
        draft.fault and draft.attempts < attempts and not isinstance(draft.answer, client.Failed)
    )


def _reply(draft: _Draft) -> list[Mapping[str, str]]:
    """Returns the answer and its faults as messages, so that the next request differs."""
    return [
        {"role": "assistant", "content": draft.answer.content},
        {"role": "user", "content": _AGAIN.format(faults=draft.fault)},
    ]


def _descriptions(draft: _Draft) -> list[Description]:
    slot, pair = draft.slot, draft.answer.value
    return [
        Description(
            id=slot.id(label),
            twin=slot.id(1 - label),
            cls=slot.cls,
            label=label,
            seed=slot.seed,
            viewpoint=slot.viewpoint,
            location=slot.location,
            subject=pair.abnormal.subject,
            event=twin.event,
            description=twin.description,
            phrase=twin.phrase,
            model=draft.answer.model,
            template_version=CHAT_TEMPLATE_VERSION,
        )
        for label, twin in ((1, pair.abnormal), (0, pair.normal))
    ]


def load_token_counter(folder: str | os.PathLike) -> Callable[[str], int]:
    """Returns a function that counts a text's tokens as the CLIP tokenizer in a folder does.

    Raises:
      UserError: the folder has no CLIP tokenizer.
    """
    import transformers

    try:
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--clip_tokenizer: expected a folder with a CLIP tokenizer, found none in {folder} "
            f"({str(error)[:200]}); give one, or leave the flag out"
        ) from error
    return lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)
