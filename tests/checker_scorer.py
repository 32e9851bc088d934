"""A scorer for `--best-of`: the checker of the built-in model. `python -m tests.checker_scorer` reads and answers lines of JSON.

The score is the share of the asked scene that a picture shows: background, things, places, size and style, one point each.
"""

import dataclasses
import json
import sys

import numpy as np
from PIL import Image

from training.checker import Checker, judge
from training.scenes import Scene, Thing
from training.sprites import Sprites
from training.vocabulary import OBJECT_SIZES, OBJECTS, SIZES, STYLES

ASKED = Scene(things=(Thing(name="star", colour="red"),), background="gray", size="large")


def main() -> None:
    rng = np.random.default_rng(0)  # emoji are no part of what is asked: noise in their place
    shape = len(STYLES), len(OBJECTS)
    rgba = {
        size: rng.integers(0, 255, (*shape, SIZES[size], SIZES[size], 4), dtype=np.uint8)
        for size in OBJECT_SIZES
    }
    checker = Checker(Sprites(rgba=rgba))
    for line in sys.stdin:
        with Image.open(json.loads(line)["picture"]) as image:
            verdict = judge(checker.read(np.asarray(image.convert("RGB"))), ASKED)
        points = dataclasses.astuple(verdict)
        sys.stdout.write(json.dumps({"score": sum(points) / len(points)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
