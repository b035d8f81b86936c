"""Twin descriptions written by a language model behind an OpenAI-compatible API.

Coverage is planned: class, viewpoint and location of each pair come from `prompts.slot`; the model
writes the subject, both events and the texts. Every answer is checked, and asked for again with
its faults named. What the model never gets right is reported by name, the rest is kept.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic

from generation.chat import client
from generation.prompts import checks
from generation.prompts.descriptions import CLASSES, Description
from generation.prompts.slots import Slot, plan_slot
from gvvad_jax.command import UserError

# Counts whatever changes a word of what is asked.
CHAT_TEMPLATE_VERSION = 1
# Such as may hang anywhere, on a ward as over a highway; their number matters to `prompts.slot`.
CHAT_VIEWPOINTS = (
    "a high corner security camera",
    "an overhead camera looking steeply down",
    "a CCTV camera mounted low at the side",
    "a wide-angle CCTV camera at medium height",
    "a distant fixed camera overlooking the area",
)
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
    """One video of a pair, as the model writes it; see `prompts.Description`."""

    model_config = pydantic.ConfigDict(extra="forbid")

    label: Literal["abnormal", "normal"]
    viewpoint: Text
    location: Text
    subject: Text
    event: Text
    description: Text
    phrase: Text


class Pair(pydantic.BaseModel):
    """The model's answer."""

    model_config = pydantic.ConfigDict(extra="forbid")

    anomaly_class: Literal[CLASSES]
    abnormal: Twin
    normal: Twin


@dataclasses.dataclass(frozen=True)
class Written:
    """What a model wrote.

    Attributes:
      descriptions: abnormal, normal, abnormal, normal ... in the plan's order.
      missing: why a pair isn't there, by its name, e.g. "Fighting-0003".
      unanswered: names of those of them whose last request had no usable answer.
    """

    descriptions: list[Description]
    missing: dict[str, str]
    unanswered: frozenset[str] = frozenset()

    def remedy(self, attempts: int) -> str:
        """What brings the missing pairs, after that many attempts, for messages.

        Answers that were kept count as attempts, so the same call never asks for them again.
        """
        answered = len(self.missing) - len(self.unanswered)
        again = f"the same command asks again for {len(self.unanswered)} without an answer"
        more = f"--attempts={2 * attempts} asks again for {answered} answered wrongly"
        ways = [again] * bool(self.unanswered) + [more] * bool(answered)
        return ", ".join([*ways, "--allow_missing does without them"])


@dataclasses.dataclass
class _Draft:
    """One pair on its way.

    Attributes:
      slot: its place in the plan.
      messages: the talk so far.
      asked: how often.
      answer: the latest, or why there is none.
      fault: what is wrong with it, "" if nothing.
    """

    slot: Slot
    messages: list[Mapping[str, str]]
    asked: int = 0
    answer: client.Answer | client.Failed | None = None
    fault: str = ""


def write_chat(
    num_pairs: int,
    seed: int,
    server: client.Server,
    *,
    attempts: int = 4,
    clip_tokenizer: str | os.PathLike = "",
    progress: bool = True,
) -> Written:
    """Twins by a language model, planned like those of `prompts.write_grammar`.

    Ids, seeds, viewpoints and locations are a function of number and seed, words are the model's. A
    pair is judged against those before it alone, in the plan's order and in rounds, so neither the
    order in which answers come in nor the pairs that follow matter. With the server's cache, the
    same call asks for nothing twice.

    Args:
      num_pairs: of twins.
      seed: of the plan, 0 or more.
      server: who writes.
      attempts: answers a pair may take, the first included; `server.attempts` counts the requests
        that an answer may take.
      clip_tokenizer: folder of a CLIP tokenizer, to measure phrases exactly; without it they are
        bounded by their letters.
      progress: bars on standard error.

    Raises:
      UserError: a number out of range, no tokenizer there, or what no retry mends at the server.
    """
    if num_pairs < 1 or seed < 0 or attempts < 1:
        raise UserError(
            "--num_pairs, --seed, --attempts: expected at least 1, 0 and 1, found "
            f"{num_pairs}, {seed} and {attempts}; correct them"
        )
    count_phrase = _tokenizer(clip_tokenizer) if clip_tokenizer else checks.token_bound
    slots = [plan_slot(index, seed, CHAT_VIEWPOINTS) for index in range(num_pairs)]
    drafts = [_Draft(slot, opening(slot)) for slot in slots]
    asking = drafts
    while asking:
        requests = [client.Request(draft.slot.name, draft.messages, Pair) for draft in asking]
        label = "descriptions" if asking is drafts else "descriptions again"
        answers = server.ask_all(requests, label=label, progress=progress)
        for draft, answer in zip(asking, answers, strict=True):
            draft.answer, draft.asked = answer, draft.asked + 1
        _judge(drafts, count_phrase)
        asking = [draft for draft in drafts if _worth_asking(draft, attempts)]
        for draft in asking:
            draft.messages = [*draft.messages, *_reply(draft)]
    return Written(
        [line for draft in drafts if not draft.fault for line in _descriptions(draft)],
        {draft.slot.name: draft.fault for draft in drafts if draft.fault},
        frozenset(d.slot.name for d in drafts if isinstance(d.answer, client.Failed)),
    )


def opening(slot: Slot) -> list[Mapping[str, str]]:
    """The messages that ask for a pair."""
    asked = _USER.format(
        cls=slot.cls,
        meaning=_MEANINGS[slot.cls],
        viewpoint=slot.viewpoint,
        location=slot.location,
        take=slot.visit + 1,
    )
    return [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": asked + (_LATER_TAKE if slot.visit else "")},
    ]


def _judge(drafts: Sequence[_Draft], count_phrase: Callable[[str], int]) -> None:
    """Notes what is wrong with each latest answer, by itself and beside the earlier pairs."""
    seen = checks.Seen()
    for draft in drafts:
        if isinstance(draft.answer, client.Failed):
            draft.fault = draft.answer.reason
            continue
        pair = draft.answer.value
        found = checks.faults(pair, draft.slot, count_phrase)
        draft.fault = "\n".join(found) or seen.fault(pair, draft.slot)
        if not draft.fault:
            seen.add(pair, draft.slot)


def _worth_asking(draft: _Draft, attempts: int) -> bool:
    return bool(
        draft.fault and draft.asked < attempts and not isinstance(draft.answer, client.Failed)
    )


def _reply(draft: _Draft) -> list[Mapping[str, str]]:
    """The answer and what is wrong with it, so that the next request isn't the same again."""
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


def _tokenizer(folder: str | os.PathLike) -> Callable[[str], int]:
    import transformers

    try:
        tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--clip_tokenizer: expected a folder with a CLIP tokenizer, found none in {folder} "
            f"({str(error)[:200]}); give one, or leave the flag out"
        ) from error
    return lambda text: len(tokenizer(text, add_special_tokens=False).input_ids)
