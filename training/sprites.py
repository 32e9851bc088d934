"""Drawings of single things: emoji from two npm packages and geometric shapes, as arrays with alpha.

The packages are fetched by the ordinary `npm` client on first use and never committed. A sprite is scaled so that its
ink (not its view box) fills the square, which is what makes its latents nearly the same wherever it is drawn.
"""

import io
import json
import math
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from training.vocabulary import OBJECT_SIZES, OBJECTS, SHAPES, SIZES, STYLES

PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "fluent-emoji-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
}
RENDER_PX = 320  # emoji are drawn once at this size, cropped to their ink, then scaled down
SHAPE_OVERSAMPLING = 8
CACHE_VERSION = 2


@dataclass(frozen=True)
class Sprites:
    """All emoji at all sizes: `rgba[size]` is uint8 (style, object, size, size, 4), alpha not premultiplied."""

    rgba: dict[str, np.ndarray]

    def object_sprite(self, name: str, style: str, size: str) -> np.ndarray:
        """RGBA uint8 (size, size, 4)."""
        return self.rgba[size][list(STYLES).index(style), list(OBJECTS).index(name)]


def default_cache_folder() -> Path:
    """Return the folder of packages and rendered sprites, kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sana-training"


def load_sprites(cache_folder: Path | None = None) -> Sprites:
    """Read the sprite cache; fetch and render what is missing (about a minute, once)."""
    folder = cache_folder or default_cache_folder()
    path = folder / f"sprites-v{CACHE_VERSION}-{len(OBJECTS)}.npz"
    if not path.exists():
        _write_atomically(path, _render_all(folder))
    with np.load(path) as file:
        return Sprites(rgba={size: file[size] for size in OBJECT_SIZES})


def _write_atomically(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
        np.savez(file, **arrays)
    os.replace(file.name, path)


def fetch_icons(folder: Path, package: str) -> dict[str, dict[str, object]]:
    """The parsed icons.json of one npm package, installed into `folder` when absent."""
    path = folder / "node_modules" / "@iconify-json" / package / "icons.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            "npm",
            "install",
            "--prefix",
            str(folder),
            "--no-audit",
            "--no-fund",
            *PACKAGES.values(),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(path.read_text(encoding="utf-8"))


def _render_all(folder: Path) -> dict[str, np.ndarray]:
    result = {
        size: np.zeros((len(STYLES), len(OBJECTS), SIZES[size], SIZES[size], 4), np.uint8)
        for size in OBJECT_SIZES
    }
    for style_index, package in enumerate(STYLES.values()):
        icons = fetch_icons(folder, package)
        for object_index, (_, icon, _) in enumerate(OBJECTS.values()):
            ink = _render_icon(icons, icon)
            for size in OBJECT_SIZES:
                result[size][style_index, object_index] = _fit(ink, SIZES[size])
    return result


def _render_icon(icons: dict[str, dict[str, object]], name: str) -> Image.Image:
    """Render an icon as premultiplied RGBA, cropped to its ink."""
    import resvg_py

    entry = icons["icons"][name]
    width, height = entry.get("width", icons["width"]), entry.get("height", icons["height"])
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width} {height}" width="{width}" height="{height}">{entry["body"]}</svg>'
    image = Image.open(
        io.BytesIO(resvg_py.svg_to_bytes(svg_string=svg, width=RENDER_PX, height=RENDER_PX)),
        formats=("PNG",),
    )
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    return image.crop(box).convert("RGBa")


def _fit(ink: Image.Image, size: int) -> np.ndarray:
    """Scale a premultiplied picture into a square, longest side filling it, centred."""
    scale = size / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    scaled = ink.resize((width, height), Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    canvas.paste(scaled, ((size - width) // 2, (size - height) // 2))
    return np.asarray(canvas)


@cache
def shape_mask(name: str, size: int) -> np.ndarray:
    """Coverage of a shape, float32 (size, size) in [0, 1], anti-aliased; its extent fills the square."""
    side = size * SHAPE_OVERSAMPLING
    canvas = Image.new("L", (side, side), 0)
    _SHAPE_PAINTERS[name](ImageDraw.Draw(canvas), side)
    small = canvas.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255


def _points(side: float, corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners given in [-1, 1] x [-1, 1], y downwards, scaled so that the larger extent fills the square."""
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    middle_x, middle_y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    scale = side / max(max(xs) - min(xs), max(ys) - min(ys))
    return [
        ((x - middle_x) * scale + side / 2, (y - middle_y) * scale + side / 2) for x, y in corners
    ]


def _regular(corners: int, inner: float | None = None) -> list[tuple[float, float]]:
    """A regular polygon standing on a side or a star (with `inner` radius), first corner at the top."""
    count = corners * (2 if inner else 1)
    radii = [1.0 if inner is None or i % 2 == 0 else inner for i in range(count)]
    angles = [-math.pi / 2 + 2 * math.pi * i / count for i in range(count)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _polygon(corners: list[tuple[float, float]]) -> Callable[[ImageDraw.ImageDraw, int], None]:
    return lambda draw, side: draw.polygon(_points(side, corners), fill=255)


def _circle(draw: ImageDraw.ImageDraw, side: int) -> None:
    draw.ellipse((0, 0, side - 1, side - 1), fill=255)


def _ring(draw: ImageDraw.ImageDraw, side: int) -> None:
    _circle(draw, side)
    draw.ellipse((0.27 * side, 0.27 * side, 0.73 * side, 0.73 * side), fill=0)


def _crescent(draw: ImageDraw.ImageDraw, side: int) -> None:
    _circle(draw, side)
    draw.ellipse((0.32 * side, 0.02 * side, 1.2 * side, 0.90 * side), fill=0)


def _heart_corners() -> list[tuple[float, float]]:
    turns = [2 * math.pi * i / 200 for i in range(200)]
    return [
        (
            16 * math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
        )
        for t in turns
    ]


def _cross_corners(arm: float = 0.33) -> list[tuple[float, float]]:
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    corners: list[tuple[float, float]] = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]
    return corners


_SHAPE_PAINTERS: dict[str, Callable[[ImageDraw.ImageDraw, int], None]] = {
    "circle": _circle,
    "square": _polygon([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "triangle": _polygon([(0, -1), (1, 0.8), (-1, 0.8)]),
    "star": _polygon(_regular(5, inner=0.42)),
    "heart": _polygon(_heart_corners()),
    "diamond": _polygon([(0, -1), (0.68, 0), (0, 1), (-0.68, 0)]),
    "hexagon": _polygon([(x, y) for y, x in _regular(6)]),
    "ring": _ring,
    "cross": _polygon(_cross_corners()),
    "crescent": _crescent,
}
assert set(_SHAPE_PAINTERS) == set(SHAPES)
