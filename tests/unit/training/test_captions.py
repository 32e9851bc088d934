"""Captions say what the scene shows, in words that the tokenizer knows, the complete ones most often."""

import random

from training.captions import choose_caption, facts_of, full_caption, write_caption
from training.scenes import Scene, Thing, sample_scene
from training.text import build_tokenizer
from training.vocabulary import RELATIONS


def test_full_captions_read_as_a_person_would_write_them() -> None:
    triangle = Scene(
        things=(Thing(name="triangle", colour="green"),), background="white", size="small"
    )
    assert full_caption(triangle) == "a small green triangle on a white background"
    pair = Scene(
        things=(Thing(name="cat"), Thing(name="pizza")),
        background="blue",
        relation="left of",
        size="small",
        style="flat",
    )
    assert full_caption(pair) == "a cat left of a pizza on a blue background in flat style"
    mice = Scene(
        things=(Thing(name="mouse"),), background="orange", count=2, size="small", style="shaded"
    )
    assert full_caption(mice) == "two mice on an orange background in shaded style"


def test_same_seed_gives_the_same_caption() -> None:
    scene = sample_scene(random.Random(0))
    assert choose_caption(scene, random.Random(5)) == choose_caption(scene, random.Random(5))


def test_stated_facts_are_in_the_caption_and_others_are_not() -> None:
    rng = random.Random(4)
    for _ in range(300):
        scene = sample_scene(rng)
        full, bare = full_caption(scene), write_caption(scene, frozenset(), None)
        assert f"{scene.background} background" in full
        assert "background" not in bare
        assert "style" not in bare
        for thing in scene.things:
            assert thing.colour is None or thing.colour in bare
        if scene.relation:
            assert scene.relation in full
            assert scene.relation not in bare


def test_fuller_captions_are_more_likely() -> None:
    scene = Scene(things=(Thing(name="owl"),), background="gray")
    rng = random.Random(6)
    captions = [choose_caption(scene, rng) for _ in range(2000)]
    with_style = sum("style" in caption for caption in captions)
    assert len(facts_of(scene)) == 3
    assert 1100 < with_style < 1900
    assert any("background" not in c and " on " not in c and "style" not in c for c in captions)


def test_every_caption_is_inside_the_vocabulary() -> None:
    tokenizer = build_tokenizer()
    rng = random.Random(7)
    captions = [choose_caption(sample_scene(rng), rng) for _ in range(3000)]
    unknown = [
        c
        for c, ids in zip(captions, tokenizer(captions).input_ids, strict=True)
        if tokenizer.unk_token_id in ids
    ]
    assert not unknown
    assert max(len(ids) for ids in tokenizer(captions).input_ids) < 40


def test_relations_have_distinct_wordings() -> None:
    phrases = [phrase for wordings in RELATIONS.values() for phrase in wordings]
    assert len(phrases) == len(set(phrases))


def test_tokenizer_adds_bos_alone_and_marks_unknown_words() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer("").input_ids == [tokenizer.bos_token_id]
    words = tokenizer.convert_ids_to_tokens(tokenizer("Two Cats, a zeppelin!").input_ids)
    assert words == ["<bos>", "two", "cat", "##s", "a", "<unk>"]
