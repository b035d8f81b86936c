"""Opens a page in headless Chromium, at two widths at once."""

import html
import json
import re
import shutil
import subprocess

import pytest

WIDTHS = (390, 1280)
# Everything that isn't inside the page would be refused, with an error on the console.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "media-src data:"
)
_OUTER = """<!DOCTYPE html><meta charset="utf-8"><body>{frames}<pre id="found"></pre><script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const page = frame.contentDocument, root = page.documentElement;
    return {{overflow: root.scrollWidth - root.clientWidth, seen: (({probe}))(page)}};
  }});
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script>"""


def look(page, folder, probe="() => null"):
    """Opens a page and returns what the browser finds.

    Args:
      page: the page's HTML.
      folder: for temporary files.
      probe: a JavaScript function of the page's document, called at each width.

    Returns:
      (by width {overflow: pixels that the page is wider than the window, seen: the probe's value},
      lines on the console, which a request to the network would be on).
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("needs chromium")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>'
    inside = html.escape(page.replace("<head>", f"<head>{policy}", 1))
    frames = "".join(
        f'<iframe srcdoc="{inside}" width="{width}" height="900" style="border:0"></iframe>'
        for width in WIDTHS
    )
    path = folder / "outer.html"
    path.write_text(_OUTER.format(frames=frames, probe=probe), encoding="utf-8")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", "--dump-dom",
         f"file://{path}"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    written = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert written and written[1], done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return dict(zip(WIDTHS, json.loads(html.unescape(written[1])), strict=True)), console
