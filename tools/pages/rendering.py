"""Renders HTML pages from the templates in this folder; one file a page, no network needed."""

import base64
import functools
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import jinja2


def render(template: str, **values: Any) -> str:
    """Renders a template of tools/pages/templates; every value in it is escaped.

    Args:
      template: file name of the template.
      **values: the template's variables.
    """
    return _environment().get_template(template).render(values)


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2  # Needed by pages alone; `run_command` names the extra that installs it.

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = picture
    return environment


def picture(image_HxWx3: np.ndarray) -> str:
    """An RGB uint8 image as the src of an <img>: a JPEG inside the page."""
    import cv2

    ok, data = cv2.imencode(".jpg", image_HxWx3[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert ok
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def points(places: Iterable[tuple[float, float]]) -> str:
    """Coordinates as the points of an SVG polyline."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
