"""Places of the built-in world, and how people and vehicles in them are drawn.

Lengths are in units of 1/120 of the picture's height and speeds in units per second, so that a
scene looks the same at every size and frame rate. A figure is computed for all frames at once (its
points in sixteenths of a pixel) and then drawn frame by frame with OpenCV.
"""

import dataclasses
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

_ROADS = ("road", "street", "intersection", "highway", "roundabout", "tunnel")
_YARDS = ("parking", "bus stop", "petrol", "plaza", "yard", "houses", "station forecourt")
# Keyword of a viewpoint: (row where the wall meets the ground, scale there, scale at the bottom).
_VIEWS = {
    "overhead": (0.12, 0.95, 1.15),
    "side": (0.34, 0.60, 1.30),
    "wide-angle": (0.28, 0.65, 1.50),
    "distant": (0.36, 0.55, 0.85),
    "corner": (0.26, 0.70, 1.20),
}
_FIXED_POINT = 4


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Returns a random stream for one purpose, so that draws for others do not change it."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


@dataclasses.dataclass(frozen=True)
class Stage:
    """The place of a video, and its time.

    Attributes:
      height, width: pixels.
      horizon: row where the wall meets the ground, pixels.
      far, near: scale of a figure at the horizon and at the bottom edge.
      setting: road, yard or indoor.
      night: whether lamps light the scene.
      seconds_T: the scene's time at each frame.
      background_HxWx3: RGB uint8.
    """

    height: int
    width: int
    horizon: float
    far: float
    near: float
    setting: str
    night: bool
    seconds_T: np.ndarray
    background_HxWx3: np.ndarray

    @property
    def unit(self) -> float:
        """Pixels per unit."""
        return self.height / 120

    def scale(self, row: float | np.ndarray) -> np.ndarray:
        """Returns the pixels per unit for a figure whose feet are at a row (or rows)."""
        depth = (np.asarray(row) - self.horizon) / (self.height - self.horizon)
        return self.unit * (self.far + (self.near - self.far) * depth)

    def ground(self, across: float, depth: float) -> tuple[float, float]:
        """Returns the pixel at a fraction of the width and a fraction of the ground's depth."""
        row = self.horizon + (self.height - self.horizon) * (0.12 + 0.83 * depth)
        return across * self.width, row


def make_stage(
    viewpoint: str,
    location: str,
    seed: int,
    size: tuple[int, int],
    seconds_T: np.ndarray,
    zoom: float = 1.0,
) -> Stage:
    """Makes the place of a description. Twins share all arguments and so get the same place."""
    height, width = size
    rng = stream(seed, "stage")
    view = next((view for word, view in _VIEWS.items() if word in viewpoint), _VIEWS["corner"])
    wall, far, near = view
    horizon = (wall + rng.uniform(-0.04, 0.04)) * height
    setting = "indoor"
    if any(word in location for word in _YARDS):
        setting = "yard"
    if any(word in location for word in _ROADS):
        setting = "road"
    night = setting != "indoor" and rng.random() < 0.3
    background = _background(rng, setting, night, size, horizon)
    return Stage(
        height, width, horizon, far * zoom, near * zoom, setting, night, seconds_T, background
    )


def _background(
    rng: np.random.Generator, setting: str, night: bool, size: tuple[int, int], horizon: float
) -> np.ndarray:
    height, width = size
    unit = height / 120
    wall_colour = _colour(rng, 80, 190)
    ground_colour = rng.uniform(85, 150) * rng.uniform(0.93, 1.07, 3)
    image = np.empty((height, width, 3), np.float32)
    image[:] = wall_colour
    image[int(horizon) :] = ground_colour * np.linspace(0.8, 1.1, height - int(horizon))[
        :, None, None
    ].astype(np.float32)
    _draw_wall(rng, image, setting, horizon, unit)
    _draw_ground(rng, image, setting, horizon, unit, ground_colour)
    for cells, strength in ((6, 9), (24, 4), (80, 5)):
        coarse = rng.normal(0, strength, (cells * 3 // 4, cells, 1)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    if night:
        image *= rng.uniform(0.4, 0.55)
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        for _ in range(rng.integers(1, 4)):
            x, y = rng.uniform(0, width), rng.uniform(horizon, height)
            distance = ((columns - x) / (50 * unit)) ** 2 + ((rows - y) / (30 * unit)) ** 2
            image += (np.exp(-distance) * 55)[..., None] * np.float32([1.0, 0.9, 0.7])
    return np.clip(image, 0, 255).astype(np.uint8)


def _draw_wall(
    rng: np.random.Generator, image: np.ndarray, setting: str, horizon: float, unit: float
) -> None:
    """Draws buildings with windows outdoors, shelves and doors indoors."""
    width = image.shape[1]
    indoor = setting == "indoor"
    if not indoor:
        image[: int(horizon * rng.uniform(0.2, 0.5))] = _colour(rng, 150, 215)
    x = -rng.uniform(0, 20) * unit
    while x < width:
        block = rng.uniform(25, 50) * unit
        top = horizon * (0.15 if indoor else rng.uniform(0.0, 0.5))
        box = (int(x), int(top)), (int(x + block - unit), int(horizon))
        cv2.rectangle(image, *box, _colour(rng, 70, 180), -1)
        shade = _colour(rng, 40, 220)
        # Goods stand close on a shelf and differ; windows are alike and further apart.
        step = (4 if indoor else rng.uniform(5, 11)) * unit
        fill = 0.85 if indoor else 0.55
        if not indoor or rng.random() < 0.7:
            for row in np.arange(
                top + 3 * unit, horizon - 5 * unit, 1.6 * step if indoor else step
            ):
                for column in np.arange(x + 3 * unit, x + block - step, step):
                    corner = int(column), int(row)
                    opposite = int(column + step * fill), int(row + step * fill)
                    colour = _colour(rng, 40, 220) if indoor else shade
                    cv2.rectangle(image, corner, opposite, colour, -1)
        x += block


def _draw_ground(
    rng: np.random.Generator,
    image: np.ndarray,
    setting: str,
    horizon: float,
    unit: float,
    colour: np.ndarray,
) -> None:
    """Draws the lanes of a road, or the joints between slabs elsewhere, in perspective."""
    height, width = image.shape[:2]
    vanishing = (rng.uniform(0.2, 0.8) * width, horizon - 60 * unit)
    line = tuple((colour * rng.uniform(0.65, 0.85)).tolist())
    if setting == "road":
        cv2.rectangle(
            image,
            (0, int(horizon + 0.22 * (height - horizon))),
            (width, int(horizon + 0.85 * (height - horizon))),
            tuple((colour * 0.6).tolist()),
            -1,
        )
        middle = int(horizon + 0.5 * (height - horizon))
        for x in np.arange(0, width, 16 * unit):
            cv2.line(image, (int(x), middle), (int(x + 8 * unit), middle), (215, 215, 205), 1)
        return
    for x in np.arange(-width, 2 * width, 22 * unit):
        far = vanishing[0] + (x - vanishing[0]) * (horizon - vanishing[1]) / (height - vanishing[1])
        cv2.line(image, (int(far), int(horizon)), (int(x), height), line, 1, cv2.LINE_AA)
    for depth in np.linspace(0, 1, 7) ** 1.5:
        row = int(horizon + depth * (height - horizon))
        cv2.line(image, (0, row), (width, row), line, 1)


@dataclasses.dataclass(frozen=True)
class Shape:
    """One stroke of a figure.

    Attributes:
      kind: line, disc or polygon.
      points: which of the figure's points it joins.
      colour: RGB.
      size_T: thickness of a line in pixels, radius of a disc in sixteenths of a pixel.
    """

    kind: str
    points: tuple[int, ...]
    colour: tuple[float, float, float]
    size_T: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Figure:
    """A person or a vehicle over the whole video.

    Attributes:
      points_TxPx2: int32, sixteenths of a pixel.
      depth_T: row of the feet; later rows are drawn over earlier ones.
      visible_T: bool.
      shapes: drawn in order.
    """

    points_TxPx2: np.ndarray
    depth_T: np.ndarray
    visible_T: np.ndarray
    shapes: tuple[Shape, ...]

    def draw(self, canvas: np.ndarray, t: int) -> None:
        """Draws frame t onto a canvas."""
        points = self.points_TxPx2[t]
        for shape in self.shapes:
            if shape.kind == "polygon":
                outline = points[list(shape.points)][None]
                cv2.fillPoly(canvas, outline, shape.colour, cv2.LINE_AA, _FIXED_POINT)
            elif shape.kind == "disc":
                centre, radius = points[shape.points[0]].tolist(), int(shape.size_T[t])
                cv2.circle(canvas, centre, radius, shape.colour, -1, cv2.LINE_AA, _FIXED_POINT)
            else:
                start, end = (points[index].tolist() for index in shape.points)
                size = int(shape.size_T[t])
                cv2.line(canvas, start, end, shape.colour, size, cv2.LINE_AA, _FIXED_POINT)


def _figure(
    points: Sequence[np.ndarray],
    foot_Tx2: np.ndarray,
    visible_T: np.ndarray | None,
    shapes: Sequence[Shape],
    width: int,
) -> Figure:
    points_TxPx2 = np.stack(points, axis=1)
    inside_T = (points_TxPx2[:, :, 0].max(1) > -2) & (points_TxPx2[:, :, 0].min(1) < width + 2)
    fixed = np.round(points_TxPx2 * (1 << _FIXED_POINT)).astype(np.int32)
    visible_T = inside_T if visible_T is None else inside_T & visible_T
    return Figure(fixed, foot_Tx2[:, 1], visible_T, tuple(shapes))


def _colour(
    rng: np.random.Generator, low: float = 20, high: float = 220
) -> tuple[float, float, float]:
    """Draws a greyish colour, as clothes and walls have under a surveillance camera."""
    colour = 0.65 * rng.uniform(low, high) + 0.35 * rng.uniform(low, high, 3)
    return tuple(colour.tolist())


def person(
    stage: Stage,
    rng: np.random.Generator,
    foot_Tx2: np.ndarray,
    *,
    step_T: np.ndarray,
    arms_Tx2: np.ndarray,
    lean_T: np.ndarray | float = 0.0,
    visible_T: np.ndarray | None = None,
) -> Figure:
    """Makes a person.

    Args:
      stage: the place.
      rng: random stream for size and clothes.
      foot_Tx2: position of the feet, pixels.
      step_T: phase of the legs, radians.
      arms_Tx2: angle of each arm from hanging down, radians.
      lean_T: angle of the body from upright, radians; pi / 2 lies on the ground.
      visible_T: bool; None for always.
    """
    tall_T = rng.uniform(31, 37) * stage.scale(foot_Tx2[:, 1])
    lean_T = np.broadcast_to(lean_T, tall_T.shape)
    up_Tx2 = np.stack([np.sin(lean_T), -np.cos(lean_T)], 1) * tall_T[:, None]
    side_Tx2 = np.stack([np.cos(lean_T), np.sin(lean_T)], 1) * tall_T[:, None]
    hip, shoulder, head = (foot_Tx2 + share * up_Tx2 for share in (0.47, 0.78, 0.91))
    spread = 0.17 * np.sin(step_T)[:, None]
    feet = [foot_Tx2 + sign * (0.03 + spread) * side_Tx2 for sign in (-1, 1)]
    hands = [
        shoulder + 0.37 * (np.sin(angle_T)[:, None] * side_Tx2 - np.cos(angle_T)[:, None] * up_Tx2)
        for angle_T in arms_Tx2.T
    ]
    coat, trousers = _colour(rng), _colour(rng, 15, 130)
    skin = tuple((np.array([205, 160, 130]) * rng.uniform(0.45, 1.1)).tolist())
    sleeve = tuple(0.8 * channel for channel in coat)
    leg_T = np.maximum(1, 0.10 * tall_T)
    shapes = (
        Shape("line", (0, 3), trousers, leg_T),
        Shape("line", (0, 4), trousers, leg_T),
        Shape("line", (1, 5), sleeve, np.maximum(1, 0.08 * tall_T)),
        Shape("line", (0, 1), coat, np.maximum(2, 0.20 * tall_T)),
        Shape("line", (1, 6), sleeve, np.maximum(1, 0.08 * tall_T)),
        Shape("disc", (2,), skin, 0.085 * tall_T * (1 << _FIXED_POINT)),
    )
    return _figure([hip, shoulder, head, *feet, *hands], foot_Tx2, visible_T, shapes, stage.width)


def vehicle(
    stage: Stage,
    rng: np.random.Generator,
    foot_Tx2: np.ndarray,
    *,
    tilt_T: np.ndarray | float = 0.0,
    visible_T: np.ndarray | None = None,
    trolley: bool = False,
) -> Figure:
    """Makes a car, or a trolley, seen from its side.

    Args:
      stage: the place.
      rng: random stream for size and colour.
      foot_Tx2: middle of its lower edge, pixels.
      tilt_T: rotation in the picture's plane, radians.
      visible_T: bool; None for always.
      trolley: whether to make a small one without a cabin.
    """
    scale_T = stage.scale(foot_Tx2[:, 1])
    length = rng.uniform(18, 26) if trolley else rng.uniform(38, 56)
    tall, cabin = length * rng.uniform(0.2, 0.3), rng.uniform(0.45, 0.85)
    tall *= 2 if trolley else 1
    tilt_T = np.broadcast_to(tilt_T, scale_T.shape)
    along = np.stack([np.cos(tilt_T), np.sin(tilt_T)], 1) * (scale_T * length)[:, None]
    up = np.stack([np.sin(tilt_T), -np.cos(tilt_T)], 1) * (scale_T * tall)[:, None]
    corners = [(-0.5, 0.25), (0.5, 0.25), (0.5, 1.0), (-0.5, 1.0)]
    roof = [(-0.5 * cabin, 1.0), (0.5 * cabin, 1.0), (0.38 * cabin, 1.75), (-0.38 * cabin, 1.75)]
    wheels = [(-0.3, 0.25), (0.3, 0.25)]
    points = [foot_Tx2 + a * along + b * up for a, b in (*corners, *roof, *wheels)]
    body, glass = _colour(rng, 30, 235), _colour(rng, 30, 80)
    radius_T = (0.15 if trolley else 0.3) * tall * scale_T * (1 << _FIXED_POINT)
    shapes = [
        Shape("polygon", (0, 1, 2, 3), body),
        *([] if trolley else [Shape("polygon", (4, 5, 6, 7), glass)]),
        Shape("disc", (8,), (20, 20, 22), radius_T),
        Shape("disc", (9,), (20, 20, 22), radius_T),
    ]
    if stage.night:
        shapes += [Shape("disc", (corner,), (255, 245, 205), 0.6 * radius_T) for corner in (0, 1)]
    return _figure(points, foot_Tx2, visible_T, shapes, stage.width)
