"""What a written pair must hold to: the plan, the twins' likeness, lengths, and being new."""

import collections
import re
from collections.abc import Callable, Sequence
from typing import Any

from generation.prompts.slots import Slot

LABELS = ("normal", "abnormal")
DESCRIPTION_WORDS = (25, 110)
# T5 of CogVideoX takes 226 tokens, its end included; CLIP 77, start and end included.
DESCRIPTION_TOKENS = 225
PHRASE_TOKENS = 75
# Descriptions of two pairs that have so much in common are one description.
MAX_OVERLAP = 0.6
_SHINGLE = 4  # words
_ARTICLES = frozenset(("a", "an", "the"))
# What a normal twin never speaks of, and neither does the subject, which it shares: beginnings of
# words, then whole words. Generators draw what is named, even where it is denied.
_FORBIDDEN = (
    r"(?:punch|kick|stab|strangl|slap|brawl|fight|attack|assault|beating|beaten|robb|steal|stole"
    r"|thief|thiev|burglar|vandal|smash|loot|arson|ablaze|flame|fireball|explosi|explod|gunfire"
    r"|gunshot|gunm|crash|collid|collision|handcuff|blood|bleed|corpse|shoplift|snatch|weapon"
    r"|pistol|rifle|violen|threaten|crowbar|wreck|injur|abus)\w*|guns?|knife|knives|on fire"
)
# What a normal twin may speak of, unless the abnormal one speaks of nothing of the kind.
_SUSPECT = (
    r"(?:shoot|blast|burn|flee|tackl|ransack|wrestl|struggl|knock|hitting|fists?|skid|ramm|shov"
    r"|dragg|forcing|wrench|ripp|grab|hurl|hiding|stuffing|graffiti)\w*|fire|firing|fuel|blows up"
    r"|spraying|swinging|striking|breaking|throwing|tearing|(?:runn?|rush|dash|rac|hurry)\w* "
    r"(?:away|off|out|from)|sweeping a shelf|flash"
)
_INCRIMINATING = re.compile(rf"\b(?:{_FORBIDDEN})\b")
_EVIDENCE = re.compile(rf"\b(?:{_FORBIDDEN}|{_SUSPECT})\b")
_TELLTALE = re.compile(r"\b(?:ab)?normal(?:ly|ity)?\b|\banomal\w*")


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles."""
    return [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _ARTICLES]


def token_bound(text: str) -> int:
    """More tokens than CLIP or T5 make of a text, but for very odd words; needs no tokenizer."""
    pieces = re.findall(r"[A-Za-z]+|[^A-Za-z\s]", text)
    return sum(-(-len(piece) // 3) if piece.isascii() else 3 for piece in pieces)


def faults(pair: Any, slot: Slot, count_phrase: Callable[[str], int] = token_bound) -> list[str]:
    """What is wrong with a pair by itself.

    Args:
      pair: prompts_chat.Pair.
      slot: what was asked for.
      count_phrase: how many of a phrase's tokens count against PHRASE_TOKENS.

    Returns:
      Sentences to tell the model; none if all is well.
    """
    found = []
    if pair.anomaly_class != slot.cls:
        found.append(f"anomaly_class is {pair.anomaly_class}, but {slot.cls} was asked for.")
    for name in LABELS:
        twin = getattr(pair, name)
        if twin.label != name:
            found.append(f"The {name} twin says it is {twin.label}.")
        for element in ("viewpoint", "location"):
            if words(getattr(twin, element)) != words(getattr(slot, element)):
                expected = getattr(slot, element)
                found.append(f"The {name} twin's {element} isn't the given one, '{expected}'.")
        found += _faults_of_texts(name, twin, slot, count_phrase)
    abnormal, normal = pair.abnormal, pair.normal
    if words(abnormal.subject) != words(normal.subject):
        found.append("The twins' subjects differ; give both the same, word for word.")
    for field in ("event", "description", "phrase"):
        if words(getattr(abnormal, field)) == words(getattr(normal, field)):
            found.append(f"The twins have the same {field}.")
    return found + _faults_of_labels(abnormal, normal)


def _faults_of_texts(
    name: str, twin: Any, slot: Slot, count_phrase: Callable[[str], int]
) -> list[str]:
    found = []
    said = words(twin.description)
    for element, text in (
        ("viewpoint", slot.viewpoint),
        ("location", slot.location),
        ("subject", twin.subject),
    ):
        missing = [word for word in words(text) if word not in said]
        if missing:
            found.append(
                f"The {name} description leaves out {', '.join(missing)} of the {element} '{text}'."
            )
    low, high = DESCRIPTION_WORDS
    length = len(twin.description.split())
    if not low <= length <= high or token_bound(twin.description) > DESCRIPTION_TOKENS:
        found.append(
            f"The {name} description has {length} words; write {low} to {high} plain ones."
        )
    if count_phrase(twin.phrase) > PHRASE_TOKENS:
        found.append(f"The {name} phrase is too long; write at most 20 plain words.")
    told = _TELLTALE.search(f"{twin.description} {twin.phrase}".lower())
    if told:
        found.append(f"The {name} texts say '{told[0]}'; tell only what can be seen.")
    return found


def _faults_of_labels(abnormal: Any, normal: Any) -> list[str]:
    texts = [f"{t.event}. {t.description} {t.phrase}".lower() for t in (normal, abnormal)]
    evidence = [_EVIDENCE.search(text) for text in texts]
    if evidence[0] and not evidence[1]:
        return [f"The twins look swapped: the normal one speaks of '{evidence[0][0]}'."]
    told = _INCRIMINATING.search(f"{normal.subject}. {abnormal.subject}. {texts[0]}".lower())
    if told:
        return [f"The normal twin and the subject must not speak of '{told[0]}', nor deny it."]
    return []


class Seen:
    """The pairs taken so far, to tell whether another one is new."""

    def __init__(self):
        self._texts: dict[tuple, str] = {}
        self._shingles = {label: collections.defaultdict(list) for label in LABELS}
        self._sizes: dict[tuple[str, str], int] = {}

    def add(self, pair: Any, slot: Slot) -> None:
        """Takes a pair in."""
        for key, text in _texts(pair, slot):
            self._texts.setdefault(key, text)
        for label in LABELS:
            shingles = _shingles(getattr(pair, label).description, slot)
            self._sizes[label, slot.name] = len(shingles)
            for shingle in shingles:
                self._shingles[label][shingle].append(slot.name)

    def fault(self, pair: Any, slot: Slot) -> str:
        """Which earlier pair this one repeats, as a sentence to tell the model; "" if none."""
        for key, _ in _texts(pair, slot):
            if key in self._texts:
                return f"An earlier scene has the same {key[0]}: '{self._texts[key]}'."
        for label in LABELS:
            shingles = _shingles(getattr(pair, label).description, slot)
            shared = collections.Counter(
                name for shingle in shingles for name in self._shingles[label].get(shingle, ())
            )
            for name, count in shared.items():
                if count >= MAX_OVERLAP * max(1, min(len(shingles), self._sizes[label, name])):
                    return (
                        f"The {label} description repeats an earlier scene nearly word for word; "
                        "tell of another subject and another event."
                    )
        return ""


def _texts(pair: Any, slot: Slot) -> Sequence[tuple[tuple, str]]:
    """What may not occur twice: a subject's event in a place, and phrases."""
    place = (" ".join(words(slot.location)),)
    for label in LABELS:
        twin = getattr(pair, label)
        event = f"{twin.subject} {twin.event}"
        yield ("event", label, *place, *words(event)), event
        yield ("phrase", *words(twin.phrase)), twin.phrase


def _shingles(text: str, slot: Slot) -> set[tuple[str, ...]]:
    """Runs of words, with those that the plan itself put there left out."""
    rest = f" {' '.join(words(text))} "
    for planned in (slot.viewpoint, slot.location):
        rest = rest.replace(f" {' '.join(words(planned))} ", " ")
    listed = rest.split()
    return {tuple(listed[i : i + _SHINGLE]) for i in range(len(listed) - _SHINGLE + 1)}
