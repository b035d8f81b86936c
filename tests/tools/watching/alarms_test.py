"""Events of a live source as its snippets come."""

import numpy as np

from tests.support.watching import make_detector
from tools.watching.alarms import Alarms
from tools.watching.renewing import Snippet
from tools.watching.waiting import Look


def test_pictures_of_an_event_that_goes_on_and_on_are_forgotten(tmp_path):
    published, detector = [], make_detector()
    alarms = Alarms("cam", detector, 4, tmp_path, lambda state, _: published.append(state))
    visual_1xD = np.full((1, detector.features.manifest.dim), 4, np.float32)
    for start in np.arange(0, 96, 0.16):
        alarms.look(Look(start, np.zeros((32, 32), np.uint8), np.zeros((32, 32, 3), np.uint8)))
        alarms.push(Snippet(visual_1xD, None, None), start, start + 0.64, 100 + start)
    # Those of one second before the newest snippet.
    assert published == ["begin"] and len(alarms._album._looks) <= 8
