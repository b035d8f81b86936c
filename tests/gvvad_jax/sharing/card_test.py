"""The model card: what it says of a run, and what it doesn't know."""

from gvvad_jax.sharing import card
from tests.support.models import make_model

FACTS = card.Facts(license="mit")


def rendered(model, facts=FACTS, name=""):
    return card.render(model.config, model.manifest, model.calibration, facts, name)


def test_a_card_of_a_detector_that_nothing_is_known_of_says_so():
    text = rendered(make_model("ur_dmu", calibrated=False))
    assert text.startswith(
        "---\nlicense: mit\nlibrary_name: gvvad-jax\ntags:\n- video-anomaly-detection\n"
        "- weakly-supervised\n- ur_dmu\n---\n\n# UR-DMU, a video anomaly detector\n"
    )
    for line in (
        "The author of this card hasn't described the training data.", "None were taken.",
        "None is set. Set one on normal footage of the camera (`gvvad calibrate`).", "- no text",
        'model = gv.load("FOLDER")',
        "- visual rows: `[T, 2, 12]` (snippets, crops, dim)",
        "It doesn't say that a crime or any harm happened",
    ):  # fmt: skip
        assert line in text, line


def test_a_card_has_measures_with_intervals_and_the_threshold():
    measures = {
        "auc": 0.875, "ap": None, "videos": 6, "frames": 240, "reasons": {"ap": "/home/me/x.mp4"},
        "per_video": {"secret": {}}, "alarms_per_hour": 3.0,
        "intervals": {"auc": [0.75, 0.9375], "alarms_per_hour": None, "draws": 100, "units": 6,
                      "level": 0.95, "per_class": {"Arson": [0, 1]}},
    }  # fmt: skip
    kept = card.shared_measures(measures)
    assert "secret" not in str(kept) and "/home" not in str(kept) and "ap" not in kept
    facts = card.Facts(license="mit", step=300, measures=kept, data="Ped2.")
    text = rendered(make_model("lap"), facts, "hf:me/d")
    assert "| measure | value | 95 % interval |" in text
    assert "| frame AUC | 0.875 | 0.75 to 0.9375 |" in text
    assert "| alarms an hour of normal test videos at the threshold | 3 | not known |" in text
    assert "Intervals: bootstrap, 100 draws of 6 groups." in text
    assert "last checkpoint, step 300." in text and "Ped2." in text
    assert "0.625, set on 1.5 hours of normal footage (3 videos), which support 2 alarms" in text
    assert 'gv.load("hf:me/d")' in text
    assert "- text rows: `[T, 8]` of `words`, captions `unknown`" in text


def test_what_a_manifest_says_stays_text():
    model = make_model("rtfm")
    model.manifest.encoder["id"] = "`<script>`\nlicense: x"
    assert "- encoder: `'<script>'\\nlicense: x`, weights" in rendered(model)
