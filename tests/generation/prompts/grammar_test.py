import collections
import hashlib

import pytest

from generation.prompts import checks
from generation.prompts.descriptions import CLASSES, coverage, save_descriptions
from generation.prompts.grammar import capacity, write_grammar
from generation.prompts.slots import plan_slot
from generation.prompts.words import GRAMMAR, VIEWPOINTS
from gvvad_jax.command import UserError


def test_twins_share_everything_but_the_event():
    descriptions = write_grammar(26, seed=1)
    by_id = {d.id: d for d in descriptions}
    assert len(by_id) == 52
    for d in descriptions:
        twin = by_id[d.twin]
        assert twin.twin == d.id and twin.label == 1 - d.label and twin.cls == d.cls
        shared = (d.viewpoint, d.location, d.subject, d.seed)
        assert shared == (twin.viewpoint, twin.location, twin.subject, twin.seed)
        assert d.event != twin.event


def test_balanced_over_classes_viewpoints_and_locations():
    # 13 classes x 5 viewpoints x 6 locations: each combination exactly once for each label.
    descriptions = write_grammar(13 * 30, seed=0)
    cells = collections.Counter((d.cls, d.label, d.viewpoint, d.location) for d in descriptions)
    assert len(cells) == 2 * 13 * 30 and set(cells.values()) == {1}
    assert set(coverage(descriptions)["viewpoint"].values()) == {156}
    assert len(VIEWPOINTS) == 5 and len(CLASSES) == 13


def test_the_grammar_has_no_duplicates():
    descriptions = write_grammar(capacity(), seed=0)
    elements = {(d.cls, d.viewpoint, d.location, d.subject, d.event) for d in descriptions}
    assert capacity() == 13 * 5 * 6 * 4 * 4
    assert len(elements) == len(descriptions)
    assert max(len(d.phrase.split()) for d in descriptions) <= 30
    with pytest.raises(UserError, match="has no more"):
        write_grammar(capacity() + 1, seed=0)


def test_the_first_pairs_do_not_depend_on_their_number():
    few, many = write_grammar(20, seed=3), write_grammar(45, seed=3)
    assert many[:40] == few
    assert write_grammar(20, seed=4) != few


def test_pairs_are_about_the_given_classes_alone():
    descriptions = write_grammar(7, seed=1, classes=("Assault", "Fighting"))
    counts = collections.Counter((d.cls, d.label) for d in descriptions)
    assert counts == {
        ("Assault", 0): 4,
        ("Assault", 1): 4,
        ("Fighting", 0): 3,
        ("Fighting", 1): 3,
    }
    every = {d.id: d for d in write_grammar(13 * 4, seed=1)}
    assert all(every[d.id] == d and every[d.twin].twin == d.id for d in descriptions)
    assert len({d.id for d in write_grammar(480, seed=0, classes=("Arson",))}) == 960
    with pytest.raises(UserError, match="expected 1 to 480 pairs .*found 481 and 0"):
        write_grammar(481, seed=0, classes=("Arson",))


def test_what_the_grammar_writes_never_changes(tmp_path):
    # Published results name their descriptions by number and seed alone. After a change, raise
    # TEMPLATE_VERSION, so that other texts are known as such.
    save_descriptions(tmp_path / "p.jsonl", write_grammar(130, seed=0))
    digest = hashlib.sha256((tmp_path / "p.jsonl").read_bytes()).hexdigest()
    assert digest == "197b97affcbafd8c023043472375639c93c4b22a0376a3581a7c8213137067c7"


def as_pair(abnormal, normal):
    """Returns twins of the grammar as a chat model's answer."""
    by_chat = pytest.importorskip("generation.prompts.by_chat")
    names = ("viewpoint", "location", "subject", "event", "description", "phrase")
    twins = {
        label: {name: getattr(twin, name) for name in names} | {"label": label}
        for label, twin in (("abnormal", abnormal), ("normal", normal))
    }
    return by_chat.Pair.model_validate({"anomaly_class": abnormal.cls} | twins)


def test_all_texts_pass_the_checks_of_chat_answers():
    # All that the grammar can write, which is the same for every seed.
    descriptions = write_grammar(capacity(), seed=0)
    texts = {(d.description, d.phrase) for d in descriptions}
    assert texts == {(d.description, d.phrase) for d in write_grammar(capacity(), seed=1)}
    faults = {}
    for index, twins in enumerate(zip(descriptions[::2], descriptions[1::2], strict=True)):
        found = checks.pair_faults(as_pair(*twins), plan_slot(index, seed=0))
        faults |= {twins[0].id: found} if found else {}
    assert len(descriptions) == 2 * 6240 and faults == {}


def test_every_abnormal_event_is_known_from_its_normal_one():
    for twins in zip(*[iter(write_grammar(13 * 16, seed=0))] * 2, strict=True):
        faults = checks.pair_faults(as_pair(*twins[::-1]), plan_slot(0, seed=0))
        assert any("The twins look swapped" in fault for fault in faults), twins[0].event


def test_viewpoints_fit_indoors_and_outdoors():
    places = {place for grammar in GRAMMAR.values() for place in grammar.locations}
    assert {"a hospital ward", "a highway"} <= places
    for seed in range(20):
        for d in write_grammar(390, seed)[::2]:
            assert not {"pole-mounted", "roadside", "ceiling", "doorway"} & set(d.viewpoint.split())
