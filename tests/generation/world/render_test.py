import msgspec
import numpy as np
import pytest

from generation.prompts.descriptions import CLASSES
from generation.prompts.grammar import write_grammar
from generation.world import events, render, scenes

PAIRS = {d.id: d for d in write_grammar(13, seed=0)}
FIGHT, CALM = PAIRS["Fighting-0000-abnormal"], PAIRS["Fighting-0000-normal"]

# Mean grey of 2 x 2 quarters of three frames, as WORLD_VERSION 1 renders them. The world is frozen,
# because results from before and after a change cannot be compared. If you must change it, raise
# WORLD_VERSION, run tools.check_world, and put the new numbers here. There is a tolerance, not a
# hash, because OpenCV's rounding differs slightly between processors.
GOLDEN = {
    ("Fighting-0000-abnormal", "footage", 0.0): [
        [151.8, 151.6, 154.3, 167.7],
        [128.5, 123.6, 130.6, 122.3],
        [150.6, 138.5, 147.8, 142.2],
    ],
    ("Arson-0000-abnormal", "footage", 0.0): [
        [122.0, 125.8, 113.2, 108.0],
        [108.1, 111.0, 101.1, 96.2],
        [126.6, 129.5, 118.7, 110.8],
    ],
    ("RoadAccidents-0000-abnormal", "generated", 1.0): [
        [111.3, 135.4, 76.4, 77.2],
        [107.5, 134.0, 79.3, 74.4],
        [106.3, 136.6, 89.3, 72.0],
    ],
    ("Robbery-0000-normal", "generated", 1.0): [
        [113.6, 117.8, 94.0, 98.0],
        [112.0, 116.7, 99.5, 96.7],
        [117.9, 119.5, 96.6, 101.9],
    ],
    ("Robbery-0000-normal", "generated", 2.0): [
        [120.2, 116.2, 94.4, 96.2],
        [120.6, 117.7, 99.1, 94.4],
        [126.7, 122.2, 102.1, 104.8],
    ],
}


def film(description, defect=None, **options):
    return render.render(description, render.WorldOptions(**options), defect)


def quarters(frames_TxHxWx3):
    """Means of 2 x 2 quarters of the first, middle and last frame, [3, 4]."""
    chosen = frames_TxHxWx3[[0, len(frames_TxHxWx3) // 2, -1]].astype(float).mean(axis=3)
    height, width = chosen.shape[1:]
    blocks = chosen.reshape(3, 2, height // 2, 2, width // 2)
    return blocks.mean(axis=(2, 4)).reshape(3, 4)


@pytest.mark.parametrize(("name", "domain", "gap"), GOLDEN)
def test_world_is_frozen(name, domain, gap):
    assert render.WORLD_VERSION == 1
    frames = film(PAIRS[name], domain=domain, domain_gap=gap).frames_TxHxWx3
    np.testing.assert_allclose(quarters(frames), GOLDEN[name, domain, gap], atol=0.3)


def test_equal_arguments_give_equal_bytes():
    first, second = (film(FIGHT, domain="footage", num_frames=40) for _ in range(2))
    assert first.frames_TxHxWx3.tobytes() == second.frames_TxHxWx3.tobytes()
    assert first.abnormal_frames == second.abnormal_frames
    other = film(FIGHT, domain="footage", num_frames=40, seed=1)
    assert (first.frames_TxHxWx3 != other.frames_TxHxWx3).mean() > 0.5


def test_footage_has_normal_time_before_and_after_an_event():
    for description in PAIRS.values():
        rendering = film(description, domain="footage", size=(60, 80))
        count = len(rendering.frames_TxHxWx3)
        assert 120 <= count <= 240 and rendering.fps == 10
        if not description.label:
            assert rendering.abnormal_frames == []
            continue
        ((start, end),) = rendering.abnormal_frames
        assert 0.08 * count <= start and end <= 0.92 * count
        assert 0.19 * count <= end - start <= 0.51 * count


def test_twins_share_the_place():
    # Rows above the ground, the mean over time: what doesn't move is the same.
    abnormal, normal = (
        film(d, domain="generated", domain_gap=0.0).frames_TxHxWx3 for d in (FIGHT, CALM)
    )
    still = [np.median(frames[:, :12], axis=0).astype(float) for frames in (abnormal, normal)]
    assert np.corrcoef(still[0].ravel(), still[1].ravel())[0, 1] > 0.95
    assert not np.array_equal(abnormal, normal)


def test_an_event_acts_inside_its_interval_only():
    # The same act with and without the event differs nowhere else.
    seconds_T = np.arange(100) / 10
    stage = scenes.make_stage("a corner camera", "a plaza", 0, (120, 160), seconds_T)
    for cls in CLASSES:
        if cls == "RoadAccidents":  # its vehicles come from afar and stay where they met
            continue
        calm = events.calm(stage, np.random.default_rng(3), cls, "two men")
        wild = events.event(stage, np.random.default_rng(3), cls, "two men", [(40, 70)])
        assert len(calm.figures) == len(wild.figures)
        inside = 0
        for still, moved in zip(calm.figures, wild.figures, strict=True):
            # Legs follow the distance walked, so they may stand differently afterwards.
            bodies = np.abs(still.points_TxPx2 - moved.points_TxPx2)[:, [0, 1, 2, 5, 6]]
            assert bodies[:40].max() == 0 and bodies[71:, :3].max() == 0
            inside = max(inside, bodies[40:70].max())
        assert inside > 5 * 16, cls  # sixteenths of a pixel
        for vapour in wild.vapours:
            assert vapour.radius_TxN[40:70].max() > 0
            assert vapour.radius_TxN[:40].max() == vapour.radius_TxN[70:].max() == 0
        assert all(vapour.radius_TxN.max() == 0 for vapour in calm.vapours)


def test_defects_are_what_they_say():
    def broken(defect):
        return film(FIGHT, domain="generated", defect=defect, size=(56, 84))

    intact = broken(None)
    moving = np.abs(np.diff(intact.frames_TxHxWx3.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert (moving > 0.5).all() and intact.abnormal_frames[0][1] == 49

    frozen = broken("frozen")
    steps = np.abs(np.diff(frozen.frames_TxHxWx3.astype(int), axis=0)).sum(axis=(1, 2, 3))
    first_still = int(np.argmax(steps == 0))
    assert 14 <= first_still <= 30 and (steps[first_still:] == 0).all()
    assert frozen.abnormal_frames[0][1] == first_still

    cut = np.abs(np.diff(broken("cut").frames_TxHxWx3.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert cut.max() > 5 * np.median(cut)
    assert broken("black").frames_TxHxWx3.max() == 0 and broken("black").abnormal_frames == []
    static = broken("static")
    light_T = static.frames_TxHxWx3.mean(axis=(1, 2, 3))
    steady = static.frames_TxHxWx3 / light_T[:, None, None, None]
    assert np.abs(steady - steady[0]).max() < 0.02 and len(np.unique(light_T)) > 20
    assert static.abnormal_frames == []

    # The wrong twin is exactly what the twin's description would have shown.
    twin = broken("twin")
    right = film(CALM, domain="generated", size=(56, 84))
    assert np.array_equal(twin.frames_TxHxWx3, right.frames_TxHxWx3)
    assert twin.abnormal_frames == []


def test_defects_are_drawn_at_their_share():
    descriptions = [msgspec.structs.replace(FIGHT, id=str(index)) for index in range(2000)]
    drawn = [render.draw_defect(d, seed=0, share=0.25) for d in descriptions]
    # Binomial: 500 of 2000 +- 19; each of five kinds 100 +- 10.
    assert 420 < sum(defect is not None for defect in drawn) < 580
    assert all(60 < drawn.count(defect) < 140 for defect in render.DEFECTS)
    assert drawn == [render.draw_defect(d, seed=0, share=0.25) for d in descriptions]


def test_gap_moves_the_look_away_from_footage():
    # Noise is what painted surfaces lack most: the mean step between neighbouring pixels.
    def roughness(gap):
        frames = film(CALM, domain="generated", domain_gap=gap).frames_TxHxWx3
        return np.abs(np.diff(frames[::8].astype(float), axis=2)).mean()

    assert roughness(0.0) > 1.2 * roughness(1.0)


def test_unknown_options_are_refused():
    for options in ({"domain": "film"}, {"defect": "upside down"}, {"domain_gap": -1.0}):
        with pytest.raises(ValueError, match="found"):
            film(FIGHT, **options)
