"""The page of tools.app, by Gradio: a field for a video, and the page of its scores in a frame."""

import contextlib
import html
import json
import os
import pathlib
import secrets
import shutil
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from gvvad_jax.command import UserError
from tools.serving.options import AppOptions
from tools.watching.detector import Detector, open_detector
from tools.watching.files import Work
from tools.watching.outputs import Folder
from tools.watching.sources import VideoFile, output_name

# Browsers may ask this server alone: pages of Gradio name scripts and fonts of others.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'"
)
# Requests that wait; more are refused.
_WAITING = 8
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_SHARE": "False",
}


class Pages:
    """Pages of scored videos, each in a folder of its own whose name can't be guessed.

    Args:
      detector: the detector.
      root: the folder of all of them.
      keep_seconds: how long they stay.
    """

    def __init__(self, detector: Detector, root: pathlib.Path, keep_seconds: float):
        self._detector, self._root, self._keep = detector, root, keep_seconds
        self._begun: set[str] = set()  # Folders of videos that are being scored.

    def add(self, path: str) -> tuple[str, dict[str, Any]]:
        """Scores a video, then removes it.

        Returns:
          (the page's path below the root, the content of its JSON).

        Raises:
          UserError: it can't be read as a video.
        """
        self.remove_old()
        video = VideoFile(path=pathlib.Path(path), given=pathlib.Path(path).name)
        token = secrets.token_urlsafe(24)
        self._begun.add(token)
        folder = Folder(self._root / token)
        name = output_name(video, {})
        try:
            Work(self._detector, folder, clips=False).do(video, name)
        except BaseException:
            shutil.rmtree(self._root / token, ignore_errors=True)
            raise
        finally:
            self._begun.discard(token)
            video.path.unlink(missing_ok=True)
        content = json.loads((folder.path / f"{name}.json").read_text())
        return f"{token}/{name}.html", content

    def remove_old(self) -> None:
        """Removes the pages whose time is over."""
        for folder in self._root.iterdir():
            if folder.name in self._begun:
                continue
            with contextlib.suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > self._keep:
                    shutil.rmtree(folder, ignore_errors=True)


def serve(options: AppOptions, models: Any) -> None:
    """Serves until it is interrupted."""
    os.environ.update(_ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="gvvad-app-") as temporary:
        root = pathlib.Path(temporary)
        # Where Gradio keeps uploads: it reads these when it is imported.
        os.environ["GRADIO_TEMP_DIR"] = str(root / "uploads")
        import uvicorn

        _require_gradio()
        (root / "pages").mkdir()
        detector = open_detector(options.watch(str(root / "unused")), models)
        pages = Pages(detector, root / "pages", 60 * options.keep_minutes)
        config = uvicorn.Config(
            application(pages, root, options),
            host=options.host,
            port=options.port,
            log_level="warning",
        )
        print(f"http://{options.host}:{options.port}  (Ctrl-C ends it)", file=sys.stderr)
        with _removing_old(pages), contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run()


def _require_gradio() -> None:
    import gradio

    if int(gradio.__version__.partition(".")[0]) < 5:
        raise UserError(
            f"expected Gradio 5 or newer, found {gradio.__version__}; pip install -U gradio"
        )


@contextlib.contextmanager
def _removing_old(pages: Pages) -> Iterator[None]:
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(30):
            pages.remove_old()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def application(pages: Pages, root: pathlib.Path, options: AppOptions) -> Any:
    """Returns the web application: Gradio's page at /, the videos' pages below /pages."""
    import fastapi
    import gradio
    from fastapi.staticfiles import StaticFiles

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/pages", StaticFiles(directory=root / "pages"))

    @app.middleware("http")
    async def restrict(
        request: fastapi.Request, answer: Callable[[fastapi.Request], Awaitable[Any]]
    ) -> Any:
        response = await answer(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return gradio.mount_gradio_app(
        app,
        _blocks(pages, options),
        path="/",
        server_name=options.host,
        server_port=options.port,
        max_file_size=options.max_megabytes << 20,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )


def _blocks(pages: Pages, options: AppOptions) -> Any:
    import gradio

    def score(path: str | None) -> tuple[str, dict[str, Any]]:
        if not path:
            raise gradio.Error("Drop a video first.", print_exception=False)
        try:
            page, content = pages.add(path)
        except UserError as error:
            message = str(error).replace(f"{pathlib.Path(path).parent}/", "")
            raise gradio.Error(html.escape(message, quote=False), print_exception=False) from error
        address = f"/pages/{urllib.parse.quote(page)}"
        frame = (
            f'<iframe src="{address}" style="width:100%;height:80vh;border:0" '
            'title="Scores of the video"></iframe>'
        )
        kept = ("video", "events", "rule")
        return frame, {name: content[name] for name in kept} | {"page": address}

    minutes = 60 * options.keep_minutes
    with gradio.Blocks(
        title="Video anomaly detection",
        analytics_enabled=False,
        delete_cache=(60, max(60, int(minutes))),
    ) as blocks:
        gradio.Markdown(
            f"# Video anomaly detection\nDrop a video of at most {options.max_megabytes} MB. It is "
            "scored on this machine and removed afterwards. A high score says that something is "
            "unlike the normal videos of the training, not that anything bad happened."
        )
        video = gradio.File(label="Video", type="filepath")
        button = gradio.Button("Find events", variant="primary")
        page, events = gradio.HTML(), gradio.JSON(label="Events")
        button.click(
            score, inputs=video, outputs=[page, events], api_name="score", concurrency_limit=1
        )
    return blocks.queue(max_size=_WAITING)
