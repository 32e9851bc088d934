"""Captions of a scene: several of different completeness, one drawn with a probability weighted by its score.

The Sana paper weighs the captions of several vision models by CLIP score; here the scene is known, so the score is the
share of its facts that the caption states. Words come from training/vocabulary.py alone, all in lower case.
"""

import itertools
import math
import random

from training.scenes import Scene, Thing
from training.vocabulary import COUNTS, OBJECTS, RELATIONS, SIZE_SYNONYMS, article, plural

TEMPERATURE = 0.3  # of the softmax over scores: the complete caption is about e^(1/3 / 0.3) = 3 times as likely as one with a fact of three left out
FACTS = ("size", "background", "style", "relation")


def facts_of(scene: Scene) -> tuple[str, ...]:
    """The optional facts that a caption of this scene may state or leave out."""
    present = {
        "size": scene.is_single,
        "background": True,
        "style": scene.has_object,
        "relation": scene.relation is not None,
    }
    return tuple(fact for fact in FACTS if present[fact])


def choose_caption(scene: Scene, rng: random.Random, *, temperature: float = TEMPERATURE) -> str:
    """Choose a caption at random, weighted by completeness."""
    facts = facts_of(scene)
    subsets = [s for n in range(len(facts) + 1) for s in itertools.combinations(facts, n)]
    weights = [math.exp(len(subset) / len(facts) / temperature) for subset in subsets]
    return write_caption(scene, frozenset(rng.choices(subsets, weights)[0]), rng)


def full_caption(scene: Scene) -> str:
    """The plainest caption that states every fact; evaluation uses it."""
    return write_caption(scene, frozenset(facts_of(scene)), None)


def write_caption(scene: Scene, stated: frozenset[str], rng: random.Random | None) -> str:
    """A caption that states these facts; without `rng` always in the first wording."""
    size = (
        _pick((scene.size, *SIZE_SYNONYMS[scene.size]), rng, first=0.8) if "size" in stated else ""
    )
    nouns = [_noun_phrase(thing, scene.count, size, rng) for thing in scene.things]
    if scene.relation is None:
        subject = nouns[0]
    elif "relation" in stated:
        subject = f"{nouns[0]} {_pick(RELATIONS[scene.relation], rng)} {nouns[1]}"
    else:
        subject = f"{nouns[0]} {_pick(('and', 'next to'), rng, first=0.8)} {nouns[1]}"
    parts = [_pick(("", "a picture of ", "a drawing of "), rng, first=0.85) + subject]
    if "background" in stated:
        colour = scene.background
        where = f"{article(colour)} {colour} background"
        parts.append(_pick((f"on {where}", f"on {colour}", f"with {where}"), rng, first=0.75))
    if "style" in stated:
        style = _pick((f"in {scene.style} style", f"{scene.style} style"), rng, first=0.7)
        if rng is not None and rng.random() < 0.25:
            return f"{style} {' '.join(parts)}"
        parts.append(style)
    return " ".join(parts)


def _noun_phrase(thing: Thing, count: int, size: str, rng: random.Random | None) -> str:
    name = thing.name
    if not thing.is_shape:
        name = _pick((name, *OBJECTS[name][2]), rng, first=0.85)
    words = [word for word in (size, thing.colour) if word]
    if count > 1:
        return " ".join([COUNTS[count], *words, plural(name)])
    words.append(name)
    one = "one" if rng is not None and rng.random() < 0.05 else article(words[0])
    return " ".join([one, *words])


def _pick(options: tuple[str, ...], rng: random.Random | None, *, first: float = 0.6) -> str:
    """The first wording mostly, one of the others now and then."""
    if rng is None or len(options) == 1 or rng.random() < first:
        return options[0]
    return rng.choice(options[1:])
