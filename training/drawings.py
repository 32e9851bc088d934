"""Drawings that a ControlNet follows: scenes, moved about, with their lines and the filled outline of what they show.

Things are moved by whole latents (32 px), also to where no caption can ask for them. The background is one colour, so that
moving is rolling the picture.
"""

import random
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from PIL import Image

from sana_cli.config.choices import ControlType
from sana_cli.images.control_lines import lines_of
from training.captions import write_caption
from training.data import CELL_PX
from training.scenes import IMAGE_PX, Mix, Scene, Split, coverage, draw, place, sample_scene
from training.sprites import Sprites

# H W pixels

OUTLINE = "outline"  # alone; else with what a finder of `sana generate` adds
KINDS = (OUTLINE, ControlType.CANNY.value, ControlType.LINEART.value)
MOVED_SHARE = 0.6  # of the scenes that can move
LARGEST_WIDTH = 3  # of lines, in pixels
# More single things than captions need: these are what moves.
MIX = Mix(
    single_object=0.3, single_shape=0.2, object_pair=0.22, shape_pair=0.1, mixed_pair=0.1,
    object_count=0.05, shape_count=0.03,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A scene, how far it is moved (right, down, in pixels), and how its lines are drawn."""

    scene: Scene
    moved: tuple[int, int]
    kind: str
    width: int
    sprites: Sprites

    @cached_property
    def picture(self) -> np.ndarray:
        """The finished picture, uint8 (H, W, 3)."""
        return self._moved(draw(self.scene, self.sprites))

    @property
    def outline(self) -> np.ndarray:
        """The filled outline of everything that is shown, bool (H, W)."""
        return filled(self._moved(coverage(self.scene, self.sprites)) > 127)

    @property
    def lines(self) -> np.ndarray:
        """White lines on black, uint8 (H, W, 3)."""
        mask = self.outline.astype(np.uint8) * 255
        lines = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8))
        lines = np.repeat(lines[..., None], 3, axis=2)
        # What is inside, too; low contrast hides outlines from the finders.
        if self.kind != OUTLINE:
            inner = lines_of(Image.fromarray(self.picture), ControlType(self.kind))
            lines = np.maximum(lines, np.asarray(inner))
        return cv2.dilate(lines, np.ones((self.width, self.width), np.uint8))

    def caption(self, rng: random.Random | None = None, *, of_place: bool = False) -> str:
        """Describe what it shows, in which style and on what; size and relation only `of_place`: they are in the lines."""
        stated = {"background"} | ({"style"} if self.scene.has_object else set())
        if of_place:
            stated |= {"size"} if self.scene.is_single else set()
            stated |= set() if self.scene.relation is None else {"relation"}
        if rng is not None:
            stated = {fact for fact in stated if rng.random() < 0.85}
        return write_caption(self.scene, frozenset(stated), rng)

    def _moved(self, image: np.ndarray) -> np.ndarray:
        return np.roll(image, self.moved[::-1], axis=(0, 1))


def sample_drawing(
    rng: random.Random, sprites: Sprites, *, mix: Mix = MIX, split: Split = "train"
) -> Drawing:
    """Sample a scene of one split, moved or not, with lines of any kind and width."""
    scene = sample_scene(rng, mix=mix, split=split)
    places = room(scene)
    moved = rng.choice(places) if rng.random() < MOVED_SHARE else (0, 0)
    width = rng.randint(1, LARGEST_WIDTH)
    return Drawing(
        scene=scene, moved=moved, kind=rng.choice(KINDS), width=width, sprites=sprites
    )  # fmt: skip


def room(scene: Scene) -> list[tuple[int, int]]:
    """Every way (right, down, in pixels) to move a scene by whole latents, within the picture."""
    placed = place(scene)
    spans = [
        (min(p.left for p in placed), max(p.left + p.side for p in placed)),
        (min(p.top for p in placed), max(p.top + p.side for p in placed)),
    ]
    ways = [
        [d for d in range(-IMAGE_PX, IMAGE_PX, CELL_PX) if low + d >= 0 and high + d <= IMAGE_PX]
        for low, high in spans
    ]
    return [(right, down) for right in ways[0] for down in ways[1]]


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask, bool (H, W), with its holes filled."""
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    canvas = np.zeros(mask.shape, np.uint8)
    cv2.drawContours(canvas, contours, -1, 1, thickness=cv2.FILLED)
    return canvas > 0
