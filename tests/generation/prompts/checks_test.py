import pytest

from generation.prompts import checks
from generation.prompts.slots import plan_slot
from tests.support.pairs import FIGHT, answer, arm, change, swap


def test_a_good_pair_has_no_fault():
    for index in range(60):
        slot = plan_slot(index, 3)
        assert checks.pair_faults(answer(slot=slot), slot) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p | {"anomaly_class": "Arson"}, "anomaly_class is Arson, but Fighting was"),
        (change("normal", label="abnormal"), "The normal twin says it is abnormal"),
        (change("normal", viewpoint="a drone"), "The normal twin's viewpoint isn't the given one"),
        (change("abnormal", location="a beach"), "The abnormal twin's location isn't the given"),
        (change("normal", subject="two dogs"), "The twins' subjects differ"),
        (swap, "The twins look swapped: the normal one speaks of"),
        (arm, "The normal twin and the subject must not speak of 'gun', nor"),
        (change("normal", event="not fighting"), "must not speak of 'fighting', nor"),
        (change("abnormal", description="Two men brawl."), "description leaves out"),
        (change("abnormal", description="Two men brawl."), "has 3 words; write 25 to 110"),
        (change("normal", phrase="men " * 80), "The normal phrase is too long"),
        (change("normal", phrase="normal men"), "The normal texts say 'normal'"),
        (lambda p: p | {"normal": p["abnormal"] | {"label": "normal"}}, "have the same event"),
    ],
)
def test_each_fault_is_named(spoil, message):
    faults = checks.pair_faults(answer(spoil), FIGHT)
    assert any(message in fault for fault in faults), faults


def test_case_articles_and_punctuation_do_not_matter():
    twin = answer().normal
    loud = change("normal", subject=twin.subject.upper(), location="the " + FIGHT.location[2:])
    assert checks.pair_faults(answer(loud), FIGHT) == []
    curly = answer(change("normal", phrase="  men’s  “talk” – calmly\n"))
    assert curly.normal.phrase == 'men\'s "talk" - calmly'


def test_repetitions_are_found():
    earlier, other = checks.EarlierPairs(), plan_slot(19, 0)
    assert other.cls == "Fighting" and other.location != FIGHT.location
    first, second = answer(), answer(slot=other)
    assert earlier.fault(first, FIGHT) == ""
    earlier.add(first, FIGHT)
    assert earlier.fault(second, other) == ""
    assert "the same event" in earlier.fault(first, FIGHT)
    # The same phrase, or the same description but for a few words and the place.
    phrase = change("normal", phrase=first.normal.phrase.upper())
    assert "the same phrase" in earlier.fault(answer(phrase, other), other)
    moved = first.normal.description.replace(FIGHT.location, other.location)
    moved = moved.replace(FIGHT.viewpoint, other.viewpoint).replace("They", "All of them")
    copied = answer(change("normal", description=moved), other)
    assert "repeats an earlier scene" in earlier.fault(copied, other)


def test_the_bound_of_tokens():
    assert checks.token_bound("two men, 12 cars") == 1 + 1 + 1 + 2 + 2
    assert checks.token_bound("umbrella") == 3 and checks.token_bound("ü") == 3


INNOCENT = (
    "standing in a stable by a stabilised cart",
    "walking off the beaten path",
    "kicking a football to and fro",
    "kicking the red rubber ball along, then having a kick-off",
    "kicking up dry leaves",
    "riding a kick scooter",
    "beating a carpet in the sun",
    "waiting while the rain beats down",
    "punching the tickets of travellers",
    "slapping a poster onto a board",
    "measuring blood pressure",
    "watching threatening grey clouds",
    "pricing tins with a label gun",
    "wearing a fleece and a flamenco skirt",
    "passing a fire hydrant and a fire truck",
    "shovelling snow beside rippling puddles",
    "looking at a shop window ablaze with lights",
    "dragonfly-watching with a one-armed friend in a robe",
    "moving stealthily after a robin",
    "greeting each other with a fist bump",
)
INCRIMINATING = (
    ("kicking a man on the ground", "kicking"),
    ("kicking her like a ball", "kicking"),
    ("stabbing at a bag", "stabbing"),
    ("beating a boy", "beating"),
    ("left beaten by the path", "beaten"),
    ("punching a stranger", "punching"),
    ("slapping a child", "slapping"),
    ("going to rob a till", "rob"),
    ("waiting unarmed", "unarmed"),
    ("walking with a suspect", "suspect"),
    ("standing near flames", "flames"),
    ("not stealing anything", "stealing"),
    ("bleeding from a cut", "bleeding"),
    ("playing with a gun", "gun"),
)


def normal_twin_doing(event):
    pair = answer()
    description = pair.normal.description.replace(pair.normal.event, event)
    phrase = f"{pair.normal.subject} {event} in {FIGHT.location}"
    texts = {"event": event, "description": description, "phrase": phrase}
    return checks.pair_faults(answer(change("normal", **texts)), FIGHT)


@pytest.mark.parametrize("event", INNOCENT)
def test_everyday_words_are_not_refused(event):
    assert normal_twin_doing(event) == []


@pytest.mark.parametrize(("event", "word"), INCRIMINATING)
def test_incriminating_words_are_refused(event, word):
    assert normal_twin_doing(event) == [
        f"The normal twin and the subject must not speak of '{word}', nor deny it."
    ]
