"""Read what a picture shows, without any learned judge: explain it by drawing.

The background is the colour of the border. Then every layout that scenes use (one thing in three
sizes, a row, a column, three things) is tried: in each of its squares every shape in every colour
and every emoji in both styles is drawn on that background, shifted a little, and compared in colour
and in edges. The layout and things that leave the least of the picture unexplained are what it
shows. A thing also has to resemble its drawing absolutely, and a shape's mask has to match the
exact one in overlap, area and second moments; otherwise it counts as nothing ("?").
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from training.scenes import IMAGE_PX, Placement, Scene, Thing, place
from training.sprites import Sprites, shape_mask
from training.vocabulary import (
    BACKGROUND_COLOURS,
    OBJECT_SIZES,
    OBJECTS,
    SHAPE_COLOURS,
    SHAPES,
    SIZES,
    STYLES,
)

# K candidate drawings, S side of a square in coarse pixels

COARSE = 8  # matching works on pictures shrunk by this factor, so that the autoencoder's blur counts little
BORDER_PX = 5
SHIFTS = (-1, 0, 1)  # in coarse pixels
EDGE_WEIGHT = 1.0
MIN_EXPLAINED = (
    0.5  # share of a thing's contrast to the background that its drawing must explain, or ...
)
MAX_RESIDUAL = 18.0  # ... the root mean square error (of 255) that is good enough where there is little contrast
MIN_MASK_OVERLAP = 0.8  # intersection over union of a shape's mask with the exact one
MAX_AREA_ERROR = 0.15
MAX_MOMENT_ERROR = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A thing in a picture; `name` is "?" when nothing resembles it. Centre in pixels."""

    name: str
    colour: str | None
    style: str | None
    x: float
    y: float
    explained: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Everything the checker sees in one picture."""

    background: str
    layout: str
    size: str
    found: tuple[Found, ...]


def shrink(image: np.ndarray) -> np.ndarray:
    """uint8 or float (H, W, C) -> float32 averaged over COARSE x COARSE squares."""
    height, width, channels = image.shape
    squares = image.reshape(height // COARSE, COARSE, width // COARSE, COARSE, channels)
    return squares.mean(axis=(1, 3), dtype=np.float32)


def edges(images: np.ndarray) -> np.ndarray:
    """Differences between neighbours, (..., S, S, 3) -> (..., S-1, S-1, 6)."""
    across = images[..., :-1, 1:, :] - images[..., :-1, :-1, :]
    down = images[..., 1:, :-1, :] - images[..., :-1, :-1, :]
    return np.concatenate([across, down], axis=-1)


def features(images: np.ndarray) -> np.ndarray:
    """Colours and weighted edges of squares, flattened: (..., S, S, 3) -> (..., F)."""
    lead = images.shape[:-3]
    return np.concatenate(
        [images.reshape(*lead, -1), EDGE_WEIGHT * edges(images).reshape(*lead, -1)], axis=-1
    )


class Checker:
    """Holds all candidate drawings at the coarse scale."""

    def __init__(self, sprites: Sprites) -> None:
        self.sprites = sprites
        self._drawings: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

    @cached_property
    def candidates(
        self,
    ) -> dict[str, tuple[list[tuple[Thing, str | None]], np.ndarray, np.ndarray]]:
        """By size: what each candidate is, its colour times coverage (K, S, S, 3), its coverage (K, S, S, 1)."""
        result = {}
        for size, side in SIZES.items():
            names: list[tuple[Thing, str | None]] = []
            rgba: list[np.ndarray] = []
            for shape in SHAPES:
                mask = shape_mask(shape, side)[..., None]
                for colour, ink in SHAPE_COLOURS.items():
                    names.append((Thing(name=shape, colour=colour), None))
                    rgba.append(
                        np.concatenate([mask * np.array(ink, np.float32), mask * 255], axis=-1)
                    )
            for style in STYLES if size in OBJECT_SIZES else ():
                for name in OBJECTS:
                    sprite = self.sprites.object_sprite(name, style, size).astype(np.float32)
                    sprite[..., :3] *= sprite[..., 3:] / 255
                    names.append((Thing(name=name), style))
                    rgba.append(sprite)
            coarse = np.stack([shrink(image) for image in rgba])
            result[size] = (names, coarse[..., :3], coarse[..., 3:] / 255)
        return result

    def drawings(self, background: str, size: str) -> tuple[np.ndarray, np.ndarray]:
        """Features of all candidates on a background (K, F), kept once computed, and their squared norms (K,)."""
        key = (background, size)
        if key not in self._drawings:
            _, ink, coverage = self.candidates[size]
            on_background = features(
                ink + (1 - coverage) * np.array(BACKGROUND_COLOURS[background], np.float32)
            )
            self._drawings[key] = on_background, (on_background**2).sum(axis=1)
        return self._drawings[key]

    def read(self, image: np.ndarray) -> Reading:
        """Find what a picture, uint8 (256, 256, 3), shows."""
        background = read_background(image)
        coarse = shrink(image)
        best: tuple[float, str, str, list[Found]] | None = None
        memory: dict[tuple[str, int, int], tuple[float, Found]] = {}
        for layout, size, squares in layouts():
            gain, found = 0.0, []
            for square in squares:
                key = (size, square.left, square.top)
                if key not in memory:
                    memory[key] = self._match(image, coarse, background, size, square)
                gain += memory[key][0]
                found.append(memory[key][1])
            if best is None or gain > best[0]:
                best = (gain, layout, size, found)
        assert best is not None
        return Reading(background=background, layout=best[1], size=best[2], found=tuple(best[3]))

    def _match(
        self, image: np.ndarray, coarse: np.ndarray, background: str, size: str, square: Placement
    ) -> tuple[float, Found]:
        """The best drawing in one square: how much error it removes compared with bare background, and what it is."""
        names = self.candidates[size][0]
        drawings, norms = self.drawings(background, size)
        colour = np.array(BACKGROUND_COLOURS[background], np.float32)
        side, left, top = square.side // COARSE, square.left // COARSE, square.top // COARSE
        offsets = [
            (dy, dx)
            for dy in SHIFTS
            for dx in SHIFTS
            if 0 <= top + dy
            and top + dy + side <= len(coarse)
            and 0 <= left + dx
            and left + dx + side <= len(coarse)
        ]
        windows = features(
            np.stack(
                [
                    coarse[top + dy : top + dy + side, left + dx : left + dx + side]
                    for dy, dx in offsets
                ]
            )
        )  # (offsets, F)
        bare = features(np.broadcast_to(colour, (side, side, 3)))
        without = ((windows - bare) ** 2).sum(axis=1)
        errors = (windows**2).sum(axis=1)[:, None] - 2 * windows @ drawings.T + norms[None]
        gains = without[:, None] - errors  # (offsets, K)
        where, which = np.unravel_index(int(gains.argmax()), gains.shape)
        (dy, dx), (thing, style) = offsets[where], names[which]
        colours = slice(0, side * side * 3)  # not the edges, which blur weakens
        error = float(((windows[where, colours] - drawings[which, colours]) ** 2).mean())
        contrast = float(((windows[where, colours] - bare[colours]) ** 2).mean())
        explained = 1 - error / max(contrast, 1.0)
        residual = math.sqrt(error)
        good = explained >= MIN_EXPLAINED or residual <= MAX_RESIDUAL
        if good and thing.is_shape:
            good = mask_agrees(image, thing, colour, square, dx * COARSE, dy * COARSE)
        found = Found(
            name=thing.name if good else "?",
            colour=thing.colour,
            style=style,
            x=square.left + dx * COARSE + square.side / 2,
            y=square.top + dy * COARSE + square.side / 2,
            explained=explained,
        )
        return float(gains[where, which]), found


def read_background(image: np.ndarray) -> str:
    """The background colour nearest to the median of the border."""
    inner = np.zeros(image.shape[:2], bool)
    inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
    median = np.median(image[~inner], axis=0)
    distance = {
        name: float(np.abs(median - np.array(rgb)).sum())
        for name, rgb in BACKGROUND_COLOURS.items()
    }
    return min(distance, key=distance.__getitem__)


def mask_agrees(
    image: np.ndarray, thing: Thing, colour: np.ndarray, square: Placement, dx: int, dy: int
) -> bool:
    """Compare the mask of pixels nearer to the shape's colour than to the background with the exact
    one: true if overlap, area and moments agree.
    """
    top, left, side = max(0, square.top + dy), max(0, square.left + dx), square.side
    window = image[top : top + side, left : left + side].astype(np.float32)
    ink = np.array(SHAPE_COLOURS[thing.colour or "black"], np.float32)
    direction = ink - colour
    seen = ((window - colour) @ direction) > 0.5 * float(direction @ direction)
    exact = shape_mask(thing.name, side)[: seen.shape[0], : seen.shape[1]] > 0.5
    overlap = (seen & exact).sum() / max(1, (seen | exact).sum())
    area_error = abs(int(seen.sum()) - int(exact.sum())) / exact.sum()
    moments, wanted = second_moments(seen), second_moments(exact)
    moment_error = np.abs(moments - wanted).max() / wanted[:2].max()
    return bool(
        overlap >= MIN_MASK_OVERLAP
        and area_error <= MAX_AREA_ERROR
        and moment_error <= MAX_MOMENT_ERROR
    )


def second_moments(mask: np.ndarray) -> np.ndarray:
    """Variances along x and y and the covariance of a mask's pixels, (3,)."""
    ys, xs = np.nonzero(mask)
    if len(xs) < 2:
        return np.zeros(3)
    return np.array([xs.var(), ys.var(), ((xs - xs.mean()) * (ys - ys.mean())).mean()])


def layouts() -> list[tuple[str, str, list[Placement]]]:
    """Every layout that scenes use: its name, the size of its things, and their squares."""
    probe = Thing(name="circle", colour="red")
    result = [
        ("single", size, place(Scene(things=(probe,), background="white", size=size)))
        for size in SIZES
    ]
    small = {"background": "white", "size": "small"}
    result.append(
        ("row", "small", place(Scene(things=(probe, probe), relation="left of", **small)))
    )
    result.append(
        ("column", "small", place(Scene(things=(probe, probe), relation="above", **small)))
    )
    result.append(("three", "small", place(Scene(things=(probe,), count=3, **small))))
    assert all(p.left + p.side <= IMAGE_PX for _, _, squares in result for p in squares)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The comparison of a picture with the scene that it should show."""

    background: bool
    count: bool  # as many things as asked for
    things: bool  # each thing's name (and a shape's colour), wherever they are
    places: bool  # right things at the right places: relation and layout
    size: bool
    style: bool  # true when nothing in the scene has a style

    @property
    def all_but_style(self) -> bool:
        return self.background and self.count and self.things and self.places and self.size


def judge(reading: Reading, scene: Scene) -> Verdict:
    """Compare a reading with a scene: positions may differ by a quarter of a tile."""
    wanted = [(p.thing, p.left + p.side / 2, p.top + p.side / 2) for p in place(scene)]
    found = [((f.name, f.colour), f.x, f.y) for f in reading.found]
    names = sorted((t.name, t.colour or "") for t, _, _ in wanted)
    things = names == sorted((name, colour or "") for (name, colour), _, _ in found)
    places = things and all(
        any(
            key == (t.name, t.colour) and abs(x - fx) < 32 and abs(y - fy) < 32
            for key, fx, fy in found
        )
        for t, x, y in wanted
    )
    styles = {f.style for f in reading.found if f.style}
    return Verdict(
        background=reading.background == scene.background,
        count=len(found) == len(wanted),
        things=things,
        places=places,
        size=not scene.is_single or reading.size == scene.size,
        style=styles <= {scene.style},
    )
