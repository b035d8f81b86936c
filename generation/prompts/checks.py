"""Checks of a pair that a model wrote: plan, twins, lengths, and repetitions."""

import collections
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from generation.prompts.slots import Slot

if TYPE_CHECKING:  # It imports pydantic, and this module.
    from generation.prompts.by_chat import Pair, Twin

LABELS = ("normal", "abnormal")
DESCRIPTION_WORDS = (25, 110)
# CogVideoX's T5 takes 226 tokens including the end; CLIP takes 77 including start and end.
DESCRIPTION_TOKENS = 225
PHRASE_TOKENS = 75
# Two descriptions repeat each other if they share this fraction of their runs of words.
MAX_OVERLAP = 0.6
_RUN_LENGTH = 4  # words
_ARTICLES = frozenset(("a", "an", "the"))
# What neither a normal twin nor the shared subject may mention, even to deny it: video generators
# draw what is named.
_FORBIDDEN = (
    r"(?:punch|strangl|brawl|fight|attack|assault|robb|thief|thiev|burglar|vandal|smash|loot|arson"
    r"|fireball|explosi|explod|gunfire|gunshot|gunm|crash|collid|collision|handcuff|blood|bleed"
    r"|corpse|shoplift|snatch|weapon|pistol|rifle|violen|threaten|crowbar|wreck|injur|abus"
    r"|criminal)\w*"
    r"|kick(?:s|ed|ing)?|stab(?:s|bed|bing|ber)?|slap(?:s|ped|ping)?|beat(?:s|en|ing|ings)?"
    r"|robs?|steal(?:s|ing)?|stole|stolen|ablaze|flam(?:es?|ing)|guns?|knife|knives|on fire"
    r"|(?<!-)(?:un)?armed|intruders?|suspects?|gang(?:s|ster|sters)?|masked"
)
# What a normal twin may mention, provided that the abnormal twin mentions something like it too.
_SUSPECT = (
    r"(?:shoot|blast|burn|tackl|ransack|wrestl|struggl|knock|hitting|skid|ramm|dragg|forcing"
    r"|wrench|grab|hurl|hiding|stuffing|graffiti)\w*|flee(?:s|ing)?|fled|fists?|rip(?:s|ped|ping)?"
    r"|shov(?:e|es|ed|ing)|fire|firing|fuel|blows up"
    r"|spraying|swinging|striking|breaking|throwing|tearing|(?:runn?|rush|dash|rac|hurry)\w* "
    r"(?:away|off|out|from)|sweeping a shelf|flash"
)
# Everyday phrases with such a word; they are removed before the search.
_INNOCENT_PHRASES = (
    r"kick\w* (?:around |about )?(?:(?:a|the|his|her|their) )?(?:(?!like)\w+ ){0,2}(?:foot)?balls?",
    r"kick-?offs?|kick\w* (?:off|up (?:\w+ ){0,2}(?:leaves|dust|snow|water))",
    r"kick scooters?",
    r"(?:well-)?beaten (?:paths?|tracks?|earth)",
    r"(?:sun|rain|waves|wings|hearts?) beat\w*|beat\w* down",
    r"beat\w* (?:\w+ ){0,2}(?:drum|rug|carpet|egg|mat|cushion)s?",
    r"punch\w* (?:\w+ ){0,2}(?:tickets?|cards?|holes?|bowls?|codes?|numbers?)",
    r"slap\w* (?:\w+ ){0,2}(?:posters?|stickers?|labels?|paint|backs?)",
    r"blood (?:pressure|donors?|donations?|tests?|samples?|oranges?)",
    r"threatening (?:\w+ )?(?:clouds?|sky|skies|weather)",
    r"(?:glue|price|label|tape|heat|massage) guns?",
    r"ablaze with (?:\w+ )?(?:lights?|colou?rs?)",
    r"(?:butter|palette|putty) kni(?:fe|ves)",
    r"gangs? of (?:workers|workmen|children)",
    r"masked (?:nurse|doctor|surgeon|dentist|welder)s?",
    r"fire (?:hydrant|truck|engine|escape|exit|door|alarm|station|extinguisher|brigade|lane)s?",
    r"fist bumps?|flash sales?|camera flash|burnt (?:orange|umber|sienna)|striking colou?rs?",
)
_INNOCENT = re.compile(rf"\b(?:{'|'.join(_INNOCENT_PHRASES)})\b")
_INCRIMINATING = re.compile(rf"\b(?:{_FORBIDDEN})\b")
_EVIDENCE = re.compile(rf"\b(?:{_FORBIDDEN}|{_SUSPECT})\b")
_TELLTALE = re.compile(r"\b(?:ab)?normal(?:ly|ity)?\b|\banomal\w*")


def words(text: str) -> list[str]:
    """Returns a text's words in lower case, without punctuation and articles."""
    return [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _ARTICLES]


def token_bound(text: str) -> int:
    """Returns an upper bound of a text's tokens for CLIP and T5, except for very unusual words."""
    pieces = re.findall(r"[A-Za-z]+|[^A-Za-z\s]", text)
    return sum(-(-len(piece) // 3) if piece.isascii() else 3 for piece in pieces)


def pair_faults(
    pair: "Pair", slot: Slot, count_phrase: Callable[[str], int] = token_bound
) -> list[str]:
    """Returns what is wrong with a pair by itself.

    Args:
      pair: the model's answer.
      slot: what was asked for.
      count_phrase: counts a phrase's tokens, of which PHRASE_TOKENS are allowed.

    Returns:
      Sentences for the model; none if the pair is fine.
    """
    faults = []
    if pair.anomaly_class != slot.cls:
        faults.append(f"anomaly_class is {pair.anomaly_class}, but {slot.cls} was asked for.")
    for name in LABELS:
        twin = getattr(pair, name)
        if twin.label != name:
            faults.append(f"The {name} twin says it is {twin.label}.")
        for element in ("viewpoint", "location"):
            if words(getattr(twin, element)) != words(getattr(slot, element)):
                expected = getattr(slot, element)
                faults.append(f"The {name} twin's {element} isn't the given one, '{expected}'.")
        faults += _text_faults(name, twin, slot, count_phrase)
    abnormal, normal = pair.abnormal, pair.normal
    if words(abnormal.subject) != words(normal.subject):
        faults.append("The twins' subjects differ; give both the same, word for word.")
    for field in ("event", "description", "phrase"):
        if words(getattr(abnormal, field)) == words(getattr(normal, field)):
            faults.append(f"The twins have the same {field}.")
    return faults + _label_faults(abnormal, normal)


def _text_faults(
    name: str, twin: "Twin", slot: Slot, count_phrase: Callable[[str], int]
) -> list[str]:
    faults = []
    description_words = words(twin.description)
    for element, text in (
        ("viewpoint", slot.viewpoint),
        ("location", slot.location),
        ("subject", twin.subject),
    ):
        missing = [word for word in words(text) if word not in description_words]
        if missing:
            faults.append(
                f"The {name} description leaves out {', '.join(missing)} of the {element} '{text}'."
            )
    low, high = DESCRIPTION_WORDS
    length = len(twin.description.split())
    if not low <= length <= high or token_bound(twin.description) > DESCRIPTION_TOKENS:
        faults.append(
            f"The {name} description has {length} words; write {low} to {high} plain ones."
        )
    if count_phrase(twin.phrase) > PHRASE_TOKENS:
        faults.append(f"The {name} phrase is too long; write at most 20 plain words.")
    telltale = _TELLTALE.search(f"{twin.description} {twin.phrase}".lower())
    if telltale:
        faults.append(f"The {name} texts say '{telltale[0]}'; tell only what can be seen.")
    return faults


def _label_faults(abnormal: "Twin", normal: "Twin") -> list[str]:
    texts = [
        _INNOCENT.sub(" ", f"{t.event}. {t.description} {t.phrase}".lower())
        for t in (normal, abnormal)
    ]
    evidence = [_EVIDENCE.search(text) for text in texts]
    if evidence[0] and not evidence[1]:
        return [f"The twins look swapped: the normal one speaks of '{evidence[0][0]}'."]
    subjects = _INNOCENT.sub(" ", f"{normal.subject}. {abnormal.subject}. ".lower())
    forbidden = _INCRIMINATING.search(subjects + texts[0])
    if forbidden:
        return [f"The normal twin and the subject must not speak of '{forbidden[0]}', nor deny it."]
    return []


class EarlierPairs:
    """The pairs accepted so far, to find repetitions."""

    def __init__(self):
        self._texts: dict[tuple, str] = {}
        self._names_by_run = {label: collections.defaultdict(list) for label in LABELS}
        self._sizes: dict[tuple[str, str], int] = {}

    def add(self, pair: "Pair", slot: Slot) -> None:
        """Adds an accepted pair."""
        for key, text in _texts(pair, slot):
            self._texts.setdefault(key, text)
        for label in LABELS:
            runs = _word_runs(getattr(pair, label).description, slot)
            self._sizes[label, slot.name] = len(runs)
            for run in runs:
                self._names_by_run[label][run].append(slot.name)

    def fault(self, pair: "Pair", slot: Slot) -> str:
        """Returns what a pair repeats of an earlier one, as a sentence for the model, or ""."""
        for key, _ in _texts(pair, slot):
            if key in self._texts:
                return f"An earlier scene has the same {key[0]}: '{self._texts[key]}'."
        for label in LABELS:
            runs = _word_runs(getattr(pair, label).description, slot)
            shared = collections.Counter(
                name for run in runs for name in self._names_by_run[label].get(run, ())
            )
            for name, count in shared.items():
                if count >= MAX_OVERLAP * max(1, min(len(runs), self._sizes[label, name])):
                    return (
                        f"The {label} description repeats an earlier scene nearly word for word; "
                        "tell of another subject and another event."
                    )
        return ""


def _texts(pair: "Pair", slot: Slot) -> Iterator[tuple[tuple, str]]:
    """Yields (key, text) of what must not occur twice: a subject's event in a place, a phrase."""
    place = (" ".join(words(slot.location)),)
    for label in LABELS:
        twin = getattr(pair, label)
        event = f"{twin.subject} {twin.event}"
        yield ("event", label, *place, *words(event)), event
        yield ("phrase", *words(twin.phrase)), twin.phrase


def _word_runs(text: str, slot: Slot) -> set[tuple[str, ...]]:
    """Returns all runs of _RUN_LENGTH words, after the plan's own words are removed."""
    rest = f" {' '.join(words(text))} "
    for planned in (slot.viewpoint, slot.location):
        rest = rest.replace(f" {' '.join(words(planned))} ", " ")
    listed = rest.split()
    starts = range(len(listed) - _RUN_LENGTH + 1)
    return {tuple(listed[i : i + _RUN_LENGTH]) for i in starts}
