"""A scene is a structured description of a picture; this file samples scenes, splits off the held-out ones and draws them.

Everything is drawn at a few fixed places, multiples of 32 px, because the autoencoder turns 32 px into one latent: the
same thing at the same phase has nearly the same latents, which is what lets a five-million-parameter transformer learn it.
"""

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.sprites import Sprites, shape_mask
from training.vocabulary import (
    BACKGROUND_COLOURS,
    OBJECT_SIZES,
    OBJECTS,
    RELATIONS,
    SHAPE_COLOURS,
    SHAPES,
    SIZES,
    STYLES,
)

IMAGE_PX = 256
HELD_OUT_ONE_IN = 10
Split = Literal["train", "held-out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """A shape (with a colour) or an object (without)."""

    name: str
    colour: str | None = None

    @property
    def is_shape(self) -> bool:
        return self.name in SHAPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A scene: `count` times the same thing, or two things with a relation ("the first is
    <relation> the second").

    `style` matters to objects only and `size` is "small" unless there is a single thing; both are
    always set.
    """

    things: tuple[Thing, ...]
    background: str
    count: int = 1
    relation: str | None = None
    size: str = "large"
    style: str = "flat"

    @property
    def has_object(self) -> bool:
        return any(not thing.is_shape for thing in self.things)

    @property
    def is_single(self) -> bool:
        return len(self.things) == 1 and self.count == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A thing and the square that it fills, in pixels."""

    thing: Thing
    left: int
    top: int
    side: int


def _hash_is_held_out(key: str) -> bool:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def is_held_out(scene: Scene) -> bool:
    """The one place that defines the split: shape x colour, and object x object (in either order)."""
    if any(
        thing.is_shape and _hash_is_held_out(f"{thing.colour} {thing.name}")
        for thing in scene.things
    ):
        return True
    names = sorted(thing.name for thing in scene.things)
    return (
        len(names) == 2
        and not any(t.is_shape for t in scene.things)
        and _hash_is_held_out(" + ".join(names))
    )


def place(scene: Scene) -> list[Placement]:
    """Place everything: 128 px tiles for two or three things, the centre for one."""
    side = SIZES[scene.size]
    if scene.is_single:
        offset = (IMAGE_PX - side) // 2
        return [Placement(thing=scene.things[0], left=offset, top=offset, side=side)]
    margin = (128 - side) // 2
    things = scene.things * (scene.count if len(scene.things) == 1 else 1)
    return [
        Placement(thing=thing, left=left + margin, top=top + margin, side=side)
        for thing, (left, top) in zip(things, _tiles(scene), strict=True)
    ]


def _tiles(scene: Scene) -> list[tuple[int, int]]:
    """Left and top of each thing's 128 px tile, in the order of the things."""
    row, column = [(0, 64), (128, 64)], [(64, 0), (64, 128)]
    if scene.relation is None:
        return row if scene.count == 2 else [(64, 0), (0, 128), (128, 128)]
    return {"left of": row, "right of": row[::-1], "above": column, "below": column[::-1]}[
        scene.relation
    ]


def draw(scene: Scene, sprites: Sprites) -> np.ndarray:
    """The picture, uint8 (256, 256, 3)."""
    image = np.empty((IMAGE_PX, IMAGE_PX, 3), np.uint8)
    image[:] = BACKGROUND_COLOURS[scene.background]
    for placement in place(scene):
        rows = slice(placement.top, placement.top + placement.side)
        columns = slice(placement.left, placement.left + placement.side)
        image[rows, columns] = _compose(placement.thing, scene, sprites, image[rows, columns])
    return image


def coverage(scene: Scene, sprites: Sprites) -> np.ndarray:
    """Compute how much of each pixel the scene's things cover, uint8 (256, 256)."""
    covered = np.zeros((IMAGE_PX, IMAGE_PX), np.uint16)
    for placement in place(scene):
        rows = slice(placement.top, placement.top + placement.side)
        columns = slice(placement.left, placement.left + placement.side)
        alpha, _ = _ink(placement.thing, scene, sprites)
        covered[rows, columns] = np.maximum(covered[rows, columns], alpha[..., 0])
    return np.minimum(covered, 255).astype(np.uint8)


def _compose(thing: Thing, scene: Scene, sprites: Sprites, under: np.ndarray) -> np.ndarray:
    alpha, ink = _ink(thing, scene, sprites)
    return ((ink * alpha + under * (256 - alpha)) >> 8).astype(np.uint8)


def _ink(thing: Thing, scene: Scene, sprites: Sprites) -> tuple[np.ndarray, np.ndarray]:
    """A thing's coverage (S, S, 1), 0..256, and its colours (S, S, 3) or (3,), both uint16."""
    if thing.is_shape:
        alpha = (shape_mask(thing.name, SIZES[scene.size]) * 256).astype(np.uint16)[..., None]
        return alpha, np.array(SHAPE_COLOURS[thing.colour or "black"], np.uint16)
    sprite = sprites.object_sprite(thing.name, scene.style, scene.size)
    alpha = sprite[..., 3:].astype(np.uint16)
    alpha += alpha >> 7  # 255 -> 256, so that the shift by 8 bits is a division
    return alpha, sprite[..., :3].astype(np.uint16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Probabilities of the kinds of scenes; they need not add up to one. Pairs take the longest to learn."""

    single_object: float = 0.16
    single_shape: float = 0.14
    object_pair: float = 0.32
    shape_pair: float = 0.20
    mixed_pair: float = 0.10
    object_count: float = 0.06
    shape_count: float = 0.02


def sample_scene(rng: random.Random, *, mix: Mix | None = None, split: Split = "train") -> Scene:
    """A random scene of one split; rejection keeps the definition of the split in one place."""
    mix = mix or Mix()
    kinds = list(Mix.__dataclass_fields__)
    weights = [getattr(mix, kind) for kind in kinds]
    while True:
        scene = _propose(rng, rng.choices(kinds, weights)[0])
        if is_held_out(scene) == (split == "held-out"):
            return scene


def _propose(rng: random.Random, kind: str) -> Scene:
    background = rng.choice(list(BACKGROUND_COLOURS))
    style = rng.choice(list(STYLES))
    make = {"object": _random_object, "shape": _random_shape}
    if kind.endswith("_pair"):
        kinds = {
            "object_pair": ["object"] * 2,
            "shape_pair": ["shape"] * 2,
            "mixed_pair": ["object", "shape"],
        }[kind]
        rng.shuffle(kinds)
        first = make[kinds[0]](rng, background)
        second = make[kinds[1]](rng, background)
        while second.name == first.name:
            second = make[kinds[1]](rng, background)
        relation = rng.choice(list(RELATIONS))
        return Scene(
            things=(first, second),
            background=background,
            relation=relation,
            size="small",
            style=style,
        )
    amount, noun = kind.split("_") if kind.startswith("single") else kind.split("_")[::-1]
    thing = make[noun](rng, background)
    if amount == "count":
        return Scene(
            things=(thing,),
            background=background,
            count=rng.choice((2, 3)),
            size="small",
            style=style,
        )
    size = rng.choice(tuple(SIZES)) if noun == "shape" else rng.choices(OBJECT_SIZES, (0.2, 0.8))[0]
    return Scene(things=(thing,), background=background, size=size, style=style)


def _random_object(rng: random.Random, background: str) -> Thing:
    return Thing(name=rng.choice(list(OBJECTS)))


def _random_shape(rng: random.Random, background: str) -> Thing:
    colour = rng.choice([colour for colour in SHAPE_COLOURS if colour != background])
    return Thing(name=rng.choice(SHAPES), colour=colour)
