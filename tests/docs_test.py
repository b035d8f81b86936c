"""What docs/ say holds: the notebook runs, tables, links and the map of the packages."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

import gvvad_jax as gv

ROOT = pathlib.Path(__file__).parent.parent
# Runs the code of a notebook, all cells in one namespace, as Jupyter does; prints its variables'
# AUCs. An `exec` instead of a kernel needs no package that is there for this test alone.
RUNNER = """
import json, sys
space = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), sys.argv[1], "exec"), space)
print(json.dumps([space["measures"]["auc"], space["result"].last["auc"]]))
"""


@pytest.mark.slow
def test_the_notebook_runs_from_arrays_to_an_auc(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra docs")
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(ROOT / "docs" / "tour.ipynb")],
        env=os.environ | {"MPLBACKEND": "Agg", "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    evaluated, trained = json.loads(done.stdout.splitlines()[-1])
    assert evaluated == trained > 0.8


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)


def test_the_reference_names_everything_public():
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in set(gv.__all__) - {"__version__"}:
        assert f"::: {getattr(gv, name).__module__}.{name}\n" in reference


def test_the_map_of_the_packages_names_every_module():
    text = (ROOT / "BUILD.md").read_text(encoding="utf-8")
    for package in ("gvvad_jax", "generation", "tools"):
        section = text.split(f"**{package}/**")[1].split("\n\n**")[0].split("\n## ")[0]
        listed = set()
        for cell in re.findall(r"^\| (`.*?) \|", section, re.M):
            folder = ""
            for name in re.findall(r"`([^`]+)`", cell):
                # `store/parts.py`, `packing.py`: both are in store/.
                folder = name.rpartition("/")[0] + "/" if "/" in name else folder
                listed.add(name if "/" in name else folder + name)
        there = {
            str(path.relative_to(ROOT / package))
            for path in (ROOT / package).rglob("*.py")
            if path.name != "__init__.py"
        }
        assert there - listed == set()
        assert [name for name in listed if not (ROOT / package / name).exists()] == []


def _anchors(path):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "path", [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name
)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        # mkdocs makes the anchors of the API reference.
        if not link.startswith("http") and not anchor.startswith("gvvad_jax."):
            target = path.parent / name if name else path
            assert target.exists(), link
            assert not anchor or anchor in _anchors(target), link


def _tables_of_studies():
    """The tables of docs/studies.md, each below a comment with the command that prints it."""
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    found = re.findall(
        r"<!-- (python -m tools\.study [^\n]*--table[^\n]*) -->\n\n(.*?)\n\n", text, re.S
    )
    return dict(found)


@pytest.mark.parametrize("command", _tables_of_studies())
def test_a_table_of_the_studies_is_what_its_csv_gives(command):
    done = subprocess.run(
        [sys.executable, *command.split()[1:]], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert _tables_of_studies()[command] in done.stdout
