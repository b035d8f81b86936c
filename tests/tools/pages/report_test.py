"""The comparison of runs, from small runs with hostile names and known scores."""

import json
import xml.etree.ElementTree

import numpy as np
import pytest

from gvvad_jax import scored
from gvvad_jax.command import UserError
from gvvad_jax.measures import MeasureOptions
from tests.support import browser
from tests.support.runs_on_disk import recorded, write_run
from tools.pages import report, report_markdown, report_runs
from tools.pages.report_scores import Scores

HOSTILE = "<script>alert(1)</script>|&'"
# By frames, which are a second each: the abnormal video's last two are abnormal.
TRUE = {"a": [0, 0, 1, 1], "b": [0, 0, 0, 0]}
PERFECT = {"a": [0.1, 0.2, 0.9, 0.8], "b": [0.1, 0.1, 0.2, 0.1]}
# Its two positive frames beat 5 of 6 negative ones each.
WORSE = {"a": [0.9, 0.2, 0.3, 0.8], "b": [0.1, 0.1, 0.2, 0.1]}


def scores(by_video, chances=None):
    frames = {i: np.array(s, np.float32) for i, s in by_video.items()}
    times = np.stack([np.arange(4.0), np.arange(1.0, 5.0)], axis=1)
    videos = scored.Scored(
        abnormal={"a": True, "b": False},
        scores=frames,
        labels={i: np.array(v) for i, v in TRUE.items()},
        alignment="by time",
        classes={"a": HOSTILE},
        snippets=frames,
        times=dict.fromkeys(frames, times),
        intervals={"a": [(2.0, 4.0)], "b": []},
        video_scores={"a": 0.9, "b": 0.2},
        chances=chances,
    )
    return Scores(videos, scored.measure(videos, MeasureOptions(bootstrap=20)))


@pytest.fixture
def runs(tmp_path):
    """A run that scores perfectly, a worse one, and one whose store is gone."""
    folders = [
        write_run(tmp_path / HOSTILE.replace("/", "-"), result=recorded(1.0)),
        write_run(tmp_path / "worse", "--lambda_value=0.25\n--seed=3\n", recorded(0.8)),
        write_run(tmp_path / "gone", "--lambda_value=2.0\n", recorded(0.625)),
    ]
    perfect, worse, gone = report_runs.read(folders)
    change = lambda run, **fields: type(run)(**{**vars(run), **fields})  # noqa: E731
    (gone,) = report_runs.with_scores([gone])
    return [
        change(perfect, scores=scores(PERFECT, {"a": 0.75, "b": 0.25})),
        change(worse, scores=scores(WORSE)),
        gone,
    ]


@pytest.fixture
def content(runs):
    return report.content(runs, *report_runs.choose_videos(runs, []), draws=20)


def text_of(element):
    return " ".join("".join(element.itertext()).split())


def body(page):
    inside = page.split("<body>")[1].split("</body>")[0]
    return xml.etree.ElementTree.fromstring(f"<body>{inside}</body>")


def test_results_have_exact_values_and_their_origin(content):
    cells = [[c["value"] for c in row["cells"]] for row in content["results"]]
    assert [row["recorded"] for row in content["results"]] == [False, False, True]
    # AUC, AP, abnormal-only AUC, FAR, video AUC, alarms an hour, ECE.
    assert cells[0] == ["1.000", "1.000", "1.000", "0.000", "1.000", "–", "0.250"]
    assert cells[1][:4] == ["0.833", "0.583", "0.500", "0.167"]
    assert cells[2] == ["0.625", "0.500", "–", "0.250", "–", "–", "–"]
    assert [[c["best"] for c in row["cells"]][:4] for row in content["results"]] == [
        [True] * 4, [False] * 4, [False] * 4,
    ]  # fmt: skip
    assert content["results"][2]["cells"][0]["interval"] == ""
    (note,) = content["notes"]
    assert note.startswith("gone: from its result.json alone: gone/real: ")


def test_the_headline_says_whether_the_videos_tell_the_best_from_the_next(content, runs):
    assert content["headline"].startswith(
        f"Of 3 runs {runs[0].name} has the highest frame AUC, 1.000 (95 % interval "
    )
    assert "It is 0.167 ahead of worse (95 % interval " in content["headline"]
    assert report.headline(runs[2:], [{"auc": 0.625, "videos": 2}], 20) == (
        "gone has a frame AUC of 0.625 on 2 test videos."
    )
    assert report.headline(runs[2:], [{}], 20) == "No run has a frame AUC yet."
    # Both are of the same draws, so a difference to itself is 0.
    same = report.headline([runs[0], runs[0]], [runs[0].scores.measures] * 2, 20)
    assert same.endswith("(95 % interval +0.000 to +0.000): these videos can't tell the two apart.")


def test_differences_are_of_settings_and_content(content):
    assert content["settings"] == [
        ("--lambda_value", ["0.5", "0.25", "2.0"]), ("--seed", ["0", "3", "0"]),
    ]  # fmt: skip
    (compared,) = content["compared"]
    assert compared["name"] == "worse" and compared["cells"][0]["value"] == "-0.167"
    # Most draws of two videos have no AUC of videos.
    assert compared["cells"][3]["value"] == "–"


def test_data_of_other_content_differs_and_other_paths_do_not(tmp_path):
    folders = [
        write_run(tmp_path / "one", "--synthetic_store=a/syn\n"),
        write_run(tmp_path / "two", "--synthetic_store=b/syn\n", stores=("t" * 64,)),
    ]
    for folder, digest in zip(folders, "uu", strict=True):
        begun = json.loads((folder / "begun.json").read_text())
        (folder / "begun.json").write_text(json.dumps(begun | {"synthetic_store": digest * 64}))
    assert report_runs.differences(report_runs.read(folders)) == [
        ("--store", ["real (ssssssss)", "real (tttttttt)"])
    ]


def test_runs_of_several_seeds_share_a_colour_and_a_row(tmp_path):
    folders = [
        write_run(tmp_path / f"{value}-{seed}", f"--lambda_value={value}\n--seed={seed}\n",
                  recorded(auc))
        for value, seed, auc in (("0.5", 0, 0.8), ("1.0", 0, 0.7), ("0.5", 1, 0.9))
    ]  # fmt: skip
    read = report_runs.read(folders)
    values = report.content(read, [], "", draws=20)
    assert [(run["colour"], run["dash"]) for run in values["runs"]] == [
        (0, ""), (1, ""), (0, "7 3"),
    ]  # fmt: skip
    both, alone = values["seeds"]
    assert (both["name"], both["seeds"], both["cells"][0]["value"]) == (
        "0.5-0, 0.5-1", 2, "0.850 ± 0.071",
    )  # fmt: skip
    # Student's: 0.85 ± 12.706 * 0.0707 / sqrt(2).
    assert both["cells"][0]["interval"] == "0.215 to 1.485"
    assert (alone["name"], alone["cells"][0]["value"]) == ("1.0-0", "0.700")


def test_curves_are_of_the_log_and_of_the_scores(content):
    titles = [p["title"] for p in content["training"]]
    # Lambda says nothing in runs without generated videos.
    assert titles == ["Loss", "Validation AUC, by video", "Norm of the gradient"]
    loss, validation, _ = content["training"]
    assert [label for label, _ in loss["x_ticks"]] == ["0", "5", "10", "15", "20"]
    assert validation["lines"][0]["dots"] == [("256.0", "110.0")]
    assert [p["title"] for p in content["terms"]] == ["Triplet"]
    roc, precision = content["test_curves"]
    # The perfect one goes up at once; the worse one passes (1/6, 0).
    assert roc["lines"][0]["points"].startswith("54.0,210.0 54.0,10.0 ")
    assert roc["lines"][1]["points"].split()[1] == "121.3,210.0"
    assert precision["lines"][0]["points"].startswith("54.0,10.0 256.0,10.0 458.0,10.0")
    calibration = content["calibration"]
    assert calibration["plot"]["lines"][0]["dots"] == [("155.0", "210.0"), ("357.0", "10.0")]
    assert [line.partition(":")[0] for line in calibration["without"]] == ["worse"]
    first = content["videos"][0]
    assert first["id"] == "a" and first["plot"]["spans"] == [("256.0", "202.0")]
    # Snippets' middles are at 0.5 to 3.5 of 4 seconds; the ends hold the outermost scores.
    points = first["plot"]["lines"][0]["points"].split()
    assert points[0] == "54.0,190.0" and points[1] == "104.5,190.0" and len(points) == 6


def test_classes_are_compared(content):
    (row,) = content["classes"]
    assert (row["name"], row["videos"]) == (HOSTILE, 1)
    assert [c["value"] for c in row["cells"]] == ["1.000", "0.833", "–"]
    assert [c["best"] for c in row["cells"]] == [True, False, False]


def test_videos_are_chosen_by_what_the_runs_disagree_about(runs):
    assert report_runs.choose_videos(runs, []) == (
        ["a", "b"],
        "the abnormal videos that the runs' scores differ most and least in, and the normal ones "
        "with the highest and the lowest peak",
    )
    assert report_runs.choose_videos(runs, ["b"]) == (["b"], "as --videos asks for")
    assert report_runs.choose_videos(runs[2:], []) == ([], "")
    with pytest.raises(UserError, match="expected ids of test videos, found 'c'; there are a, b"):
        report_runs.choose_videos(runs, ["c"])


def test_runs_without_a_result_or_with_other_test_videos_are_named(tmp_path):
    folders = [
        write_run(tmp_path / "x" / "run", result=recorded(0.5)),
        write_run(tmp_path / "y" / "run", result=recorded(0.6, videos=3)),
        write_run(tmp_path / "z" / "run"),
    ]
    read = report_runs.with_scores(report_runs.read(folders))
    assert [run.name for run in read] == ["x/run", "y/run", "z/run"]
    notes = report.content(read, [], "", draws=20)["notes"]
    assert notes[2].startswith("z/run: not finished: there is no result.json yet")
    assert notes[3].startswith("The runs were measured on different test videos")
    with pytest.raises(UserError, match="expected the folder of a run"):
        report_runs.read([tmp_path])
    with pytest.raises(UserError, match="expected each run once"):
        report_runs.read([folders[0], folders[0]])


def test_the_page_is_well_formed_and_escapes_everything(content, runs):
    page = report.page(content)
    assert page.count("<script") == 1 and "http" not in page
    text = text_of(body(page))
    assert HOSTILE in text and runs[0].name in text
    rows = [[text_of(cell) for cell in row] for row in next(body(page).iter("table"))]
    assert rows[0][:4] == ["run", "detector", "steps", "AUC ↑"]
    assert rows[3][:4] == ["gone †", "LAP", "20", "0.625"]


def test_the_markdown_says_the_same(content):
    text = report_markdown.markdown(content, "report_plots")
    assert text.startswith("# 3 training runs compared\n\nOf 3 runs ")
    assert "| gone † | LAP | 20 | 0.625 | 0.500 | – | 0.250 | – | – | – |" in text
    assert "| --lambda\\_value | 0.5 | 0.25 | 2.0 |" in text
    assert "<script>" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;\\|&amp;'" in text
    pictures = report_markdown.pictures(content)
    for name in pictures:
        assert f"](report_plots/{name})" in text
        xml.etree.ElementTree.fromstring(pictures[name])
    assert len(pictures) == 3 + 2 + 1 + 2
    assert text.endswith("blue, worse brown, gone green.\n")


def test_a_browser_shows_it_at_both_widths(content, tmp_path):
    # A click on a run hides its lines in each plot; a second one shows them again.
    probe = """(page) => {
      const button = page.querySelector('.runs button[data-run="1"]');
      const shown = () => [...page.querySelectorAll('svg g[data-run="1"]')]
        .filter((line) => line.style.display !== "none").length;
      const before = shown();
      button.click();
      const hidden = shown(), pressed = button.getAttribute("aria-pressed");
      button.click();
      return [before, hidden, pressed, shown()];
    }"""
    found, console = browser.look(report.page(content), tmp_path, probe)
    assert console == []
    # Eight plots have the worse run: of training 3, terms 1, ROC and PR 2, videos 2.
    assert found == {width: {"overflow": 0, "seen": [8, 0, "false", 8]} for width in browser.WIDTHS}
