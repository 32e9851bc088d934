"""The checker reads exact pictures without a mistake, and is not fooled by wrong or empty ones."""

import random

import numpy as np
import pytest

from training.checker import Checker, judge
from training.evaluate import questions, wilson
from training.scenes import Scene, Thing, draw, is_held_out, sample_scene
from training.sprites import Sprites


@pytest.fixture(scope="module")
def checker(sprites: Sprites) -> Checker:
    return Checker(sprites)


def test_ground_truth_is_read_without_a_mistake(checker: Checker, sprites: Sprites) -> None:
    rng = random.Random(0)
    for i in range(6):
        scene = sample_scene(rng, split="held-out" if i % 2 else "train")
        verdict = judge(checker.read(draw(scene, sprites)), scene)
        assert verdict.all_but_style, scene
        assert verdict.style, scene


@pytest.mark.parametrize(
    ("shown", "field"),
    [
        (Scene(things=(Thing(name="star", colour="red"),), background="white"), "background"),
        (Scene(things=(Thing(name="star", colour="blue"),), background="gray"), "things"),
        (Scene(things=(Thing(name="heart", colour="red"),), background="gray"), "things"),
        (
            Scene(things=(Thing(name="star", colour="red"),), background="gray", size="small"),
            "size",
        ),
        (
            Scene(
                things=(Thing(name="star", colour="red"),), background="gray", count=2, size="small"
            ),
            "count",
        ),
    ],
    ids=["background", "colour", "shape", "size", "count"],
)
def test_a_difference_is_noticed(
    checker: Checker, sprites: Sprites, shown: Scene, field: str
) -> None:
    asked = Scene(things=(Thing(name="star", colour="red"),), background="gray", size="large")
    verdict = judge(checker.read(draw(shown, sprites)), asked)
    assert not getattr(verdict, field)


def test_swapped_places_are_noticed(checker: Checker, sprites: Sprites) -> None:
    cat, dog = Thing(name="cat"), Thing(name="dog")
    shown = Scene(things=(dog, cat), background="white", relation="left of", size="small")
    asked = Scene(things=(cat, dog), background="white", relation="left of", size="small")
    verdict = judge(checker.read(draw(shown, sprites)), asked)
    assert verdict.things
    assert not verdict.places


def test_noise_shows_nothing(checker: Checker) -> None:
    image = np.random.default_rng(1).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    assert {found.name for found in checker.read(image).found} == {"?"}


def test_questions_are_fixed_and_half_of_the_composed_ones_held_out() -> None:
    asked = questions()
    assert asked == questions()
    assert len(asked) >= 300
    for group in ("shape", "shape relation", "object relation"):
        held_out = [is_held_out(q.scene) for q in asked if q.group == group]
        assert sum(held_out) * 2 == len(held_out)


def test_wilson_interval_of_known_values() -> None:
    low, high = wilson(95, 100)
    assert low == pytest.approx(0.8883, abs=5e-4)
    assert high == pytest.approx(0.9785, abs=5e-4)
