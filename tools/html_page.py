"""What the HTML pages share: one file each, readable in light and dark, without a network."""

import base64
import html
from collections.abc import Sequence
from typing import Any

import numpy as np

STYLE = """
:root { color-scheme: light dark; --ink: #1d2327; --soft: #5c6870; --paper: #fff; --line: #d5dadd;
  --box: #f3f5f6; --arm0: #8a5a00; --arm1: #0063a8; --truth: #d9363630; --warn: #fff1c9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9eb; --soft: #9aa6ad; --paper: #15191c;
  --line: #3a4349; --box: #1f2529; --arm0: #f0b44a; --arm1: #5cb6ff; --truth: #ff6b6b45;
  --warn: #45380f; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.warn { background: var(--warn); padding: .7rem 1rem; border-radius: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
.soft { color: var(--soft); } .small { font-size: .85rem; }
.video { display: flex; flex-wrap: wrap; gap: .8rem; align-items: flex-start; margin: 1.2rem 0; }
.video figure { margin: 0; } .video figcaption { font-size: .75rem; color: var(--soft); }
.video img { display: block; width: 150px; border-radius: .3rem; }
.video svg { flex: 1 1 22rem; min-width: 18rem; height: auto; }
.video h3 { flex-basis: 100%; margin: 0; font-size: 1rem; font-weight: 600; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); }
.key { display: inline-block; width: 1.6em; height: .25em; vertical-align: middle;
  margin: 0 .4em 0 1em; }
.key:first-child { margin-left: 0; } .key.truth { height: 1em; background: var(--truth); }
pre { background: var(--box); padding: .7rem 1rem; border-radius: .4rem; overflow-x: auto;
  font-size: .85rem; }
"""


def document(title: str, sections: Sequence[str], style: str = "") -> str:
    """A whole page.

    Args:
      title: of its window.
      sections: HTML, in order.
      style: CSS of this page alone, after STYLE.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def escape(value: Any) -> str:
    """Any value as text that is safe between tags and inside quoted attributes."""
    return html.escape(str(value), quote=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls where it is too wide; cells are escaped here."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>'


def picture(image_HxWx3: np.ndarray) -> str:
    """An RGB uint8 image as the src of an <img>: a JPEG inside the page."""
    import cv2

    ok, data = cv2.imencode(".jpg", image_HxWx3[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert ok
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()
