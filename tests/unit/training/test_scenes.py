"""Scenes: deterministic, inside the picture, and the held-out split never leaks into training."""

import random

import numpy as np
import pytest

from training.scenes import IMAGE_PX, Mix, Scene, Thing, draw, is_held_out, place, sample_scene
from training.sprites import Sprites, shape_mask
from training.vocabulary import BACKGROUND_COLOURS, OBJECTS, RELATIONS, SHAPE_COLOURS, SHAPES, SIZES


def test_same_seed_gives_same_scenes_and_pictures(sprites: Sprites) -> None:
    first, second = ([sample_scene(random.Random(seed)) for seed in range(20)] for _ in range(2))
    assert first == second
    assert np.array_equal(draw(first[0], sprites), draw(second[0], sprites))


def test_training_never_shows_a_held_out_combination() -> None:
    rng = random.Random(1)
    assert not any(is_held_out(sample_scene(rng)) for _ in range(3000))


def test_held_out_split_holds_only_held_out_combinations() -> None:
    rng = random.Random(2)
    mix = Mix(single_object=0, object_count=0)  # single objects are never held out
    assert all(is_held_out(sample_scene(rng, mix=mix, split="held-out")) for _ in range(200))


def test_held_out_object_pairs_do_not_depend_on_order() -> None:
    names = list(OBJECTS)[:30]
    pairs = [(Thing(name=a), Thing(name=b)) for a in names for b in names if a < b]
    scenes = [
        Scene(things=pair, background="white", relation="above", size="small") for pair in pairs
    ]
    flipped = [
        Scene(things=pair[::-1], background="white", relation="below", size="small")
        for pair in pairs
    ]
    held_out = [is_held_out(scene) for scene in scenes]
    assert held_out == [is_held_out(scene) for scene in flipped]
    assert 0.05 < sum(held_out) / len(held_out) < 0.16


def test_shapes_and_colours_are_all_seen_in_training() -> None:
    single = [Thing(name=shape, colour=colour) for shape in SHAPES for colour in SHAPE_COLOURS]
    seen = [t for t in single if not is_held_out(Scene(things=(t,), background="gray"))]
    assert {t.name for t in seen} == set(SHAPES)
    assert {t.colour for t in seen} == set(SHAPE_COLOURS)
    assert len(seen) < len(single)


@pytest.mark.parametrize(
    ("relation", "axis", "sign"),
    [("left of", "left", -1), ("right of", "left", 1), ("above", "top", -1), ("below", "top", 1)],
)
def test_relation_is_where_the_first_thing_stands(relation: str, axis: str, sign: int) -> None:
    assert relation in RELATIONS
    things = (Thing(name="cat"), Thing(name="dog"))
    first, second = place(Scene(things=things, background="white", relation=relation, size="small"))
    assert (first.thing.name, second.thing.name) == ("cat", "dog")
    assert (getattr(first, axis) - getattr(second, axis)) * sign > 0


def test_every_placement_is_inside_the_picture() -> None:
    rng = random.Random(3)
    for _ in range(500):
        for p in place(sample_scene(rng)):
            assert min(p.left, p.top) >= 0
            assert max(p.left, p.top) + p.side <= IMAGE_PX


def test_background_fills_the_corners(sprites: Sprites) -> None:
    for background, rgb in BACKGROUND_COLOURS.items():
        image = draw(Scene(things=(Thing(name="cat"),), background=background), sprites)
        assert tuple(image[0, 0]) == rgb


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES.values())
def test_shapes_fill_their_square(shape: str, size: int) -> None:
    mask = shape_mask(shape, size)
    assert mask.shape == (size, size)
    rows, columns = np.nonzero(mask.max(axis=1) > 0.3)[0], np.nonzero(mask.max(axis=0) > 0.3)[0]
    assert max(np.ptp(rows), np.ptp(columns)) >= 0.9 * size
