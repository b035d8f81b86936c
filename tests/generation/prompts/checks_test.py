import pytest

from generation.prompts import by_chat, checks
from generation.prompts.slots import plan_slot
from tests.support.pairs import FIGHT, answer, arm, change, swap


def test_a_good_pair_has_no_fault():
    for index in range(60):
        slot = plan_slot(index, 3, by_chat.CHAT_VIEWPOINTS)
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
    earlier, other = checks.EarlierPairs(), plan_slot(19, 0, by_chat.CHAT_VIEWPOINTS)
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
