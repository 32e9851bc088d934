"""Selection on the listings of the published repos (sizes and oddities: docs/sana-spec.md, 1.2)."""

import pytest

from sana_cli.checkpoints.file_selection import (
    missing_files,
    select_files,
    select_shards,
    select_weights,
)

STEM = "diffusion_pytorch_model"
INDEX = f"{STEM}.safetensors.index.json"
SHARDS = [f"{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)]
TEXT_ENCODER = [f"text_encoder/model-0000{i}-of-00002.safetensors" for i in (1, 2)]
SMALL = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors.index.json",
    *TEXT_ENCODER,
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    "vae/config.json",
    f"vae/{STEM}.safetensors",
]
NOISE = [
    ".gitattributes",
    "LICENSE.txt",
    "README.md",
    "asset/model_index.json",
    "tokenizer/tokenizer.model",
    "tokenizer/old/tokenizer.json",
]


def sana_1(variant: str, *more: str) -> list[str]:
    """A Sana-1.0 repo: fp32 shards and one half-precision copy of everything."""
    text = [name.replace("model-", f"model.{variant}-") for name in TEXT_ENCODER]
    return [
        *SMALL, *NOISE, *more,
        *(f"transformer/{name}" for name in (INDEX, *SHARDS)),
        f"transformer/{STEM}.{variant}.safetensors",
        f"text_encoder/model.safetensors.index.{variant}.json", *text,
        f"vae/{STEM}.{variant}.safetensors",
    ]  # fmt: skip


def used(*transformer: str) -> set[str]:
    return {*SMALL, *(f"transformer/{name}" for name in transformer)}


REPOS = {
    "fp16": (sana_1("fp16"), "fp16", used(f"{STEM}.fp16.safetensors")),
    "fp16-stale-single": (
        sana_1("fp16", f"transformer/{STEM}.safetensors"), "fp16", used(f"{STEM}.fp16.safetensors"),
    ),
    "fp32-stale-single": (
        sana_1("fp16", f"transformer/{STEM}.safetensors"), None, used(INDEX, *SHARDS),
    ),
    "bf16-with-int4": (
        sana_1("bf16", f"transformer/{STEM}.int4.safetensors"), "bf16",
        used(f"{STEM}.bf16.safetensors"),
    ),
    "wrong-variant-wanted": (sana_1("bf16"), "fp16", used(INDEX, *SHARDS)),
    "1.5-and-sprint": (
        [*SMALL, *NOISE, f"transformer/{STEM}.safetensors"], None, used(f"{STEM}.safetensors"),
    ),
    "4.8b": (
        [*SMALL, *NOISE, *(f"transformer/{name}" for name in (INDEX, *SHARDS))], None,
        used(INDEX, *SHARDS),
    ),
}  # fmt: skip


@pytest.mark.parametrize("repo", REPOS)
def test_published_repos(repo: str) -> None:
    paths, weight_variant, expected = REPOS[repo]
    selected = select_files(paths, weight_variant=weight_variant)
    assert set(selected) == expected
    assert len(selected) == len(expected)
    assert missing_files(selected) == []


FOLDERS = {
    "single": ([f"{STEM}.safetensors"], None, f"{STEM}.safetensors"),
    "index-before-single": ([f"{STEM}.safetensors", INDEX, *SHARDS], None, INDEX),
    "index-without-shards": ([f"{STEM}.safetensors", INDEX], None, f"{STEM}.safetensors"),
    "shards-without-index": (SHARDS, None, None),
    "variant-before-index": (
        [INDEX, *SHARDS, f"{STEM}.fp16.safetensors"], "fp16", f"{STEM}.fp16.safetensors",
    ),
    "variant-index": (
        [f"{STEM}.fp16.safetensors", f"{STEM}.fp16.safetensors.index.json",
         f"{STEM}.fp16-00001-of-00001.safetensors"],
        "fp16", f"{STEM}.fp16.safetensors.index.json",
    ),
    "absent-variant": ([f"{STEM}.safetensors"], "fp16", f"{STEM}.safetensors"),
    "only-another-variant": ([f"{STEM}.fp16.safetensors"], None, f"{STEM}.fp16.safetensors"),
    "only-int4": ([f"{STEM}.int4.safetensors"], None, None),
    "pickle-and-onnx": ([f"{STEM}.bin", "model.onnx"], None, None),
    "empty": ([], "fp16", None),
}  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS)
def test_select_weights(folder: str) -> None:
    names, weight_variant, expected = FOLDERS[folder]
    assert select_weights(names, stem=STEM, weight_variant=weight_variant) == expected


@pytest.mark.parametrize(
    ("index", "shards"),
    [
        ("m.safetensors.index.json", ["m-00001-of-00001.safetensors"]),
        ("m.fp16.safetensors.index.json", ["m.fp16-00001-of-00001.safetensors"]),
        ("m.fp16.safetensors.index.json", ["m-00001-of-00001.fp16.safetensors"]),
        ("m.safetensors.index.fp16.json", ["m.fp16-00001-of-00001.safetensors"]),
    ],
)
def test_an_index_owns_the_shards_of_its_variant_alone(index: str, shards: list[str]) -> None:
    variant = "fp16" if "fp16" in index else None
    others = [
        "m.safetensors", "m.fp16.safetensors", "other-00001-of-00001.safetensors",
        "m.bf16-00001-of-00001.safetensors", "m-00001-of-00001.bf16.safetensors",
    ]  # fmt: skip
    names = [*others, *shards, index]
    assert select_shards(names, index) == shards
    assert select_weights(names, stem="m", weight_variant=variant) == index


def test_a_name_that_is_no_index() -> None:
    with pytest.raises(ValueError, match="not the name of a safetensors index"):
        select_shards([], "config.json")


def test_components_may_be_left_out() -> None:
    selected = select_files(SMALL, components=("vae", "tokenizer"))
    assert {path.partition("/")[0] for path in selected} == {"model_index.json", "vae", "tokenizer"}
    assert missing_files(selected, components=("vae", "tokenizer")) == []


def test_a_controlnet_comes_along_where_there_is_one() -> None:
    branch = ["controlnet/config.json", f"controlnet/{STEM}.safetensors"]
    assert select_files([*SMALL, *branch])[-2:] == branch
    assert not [name for name in select_files(SMALL) if name.startswith("controlnet/")]
    parts = ("vae", "text_encoder", "tokenizer", "scheduler")
    assert "controlnet/config.json" not in select_files([*SMALL, *branch], components=parts)


def test_our_own_settings_come_along() -> None:
    assert select_files(["sana.json", "README.md"], components=()) == ["sana.json"]


def test_an_old_tokenizer_is_read_from_its_sentencepiece_model() -> None:
    names = ["tokenizer/tokenizer.model", "tokenizer/tokenizer_config.json"]
    assert select_files(names, components=("tokenizer",)) == names


def test_missing_files_are_named() -> None:
    assert missing_files([]) == [
        "model_index.json",
        "transformer/config.json", f"transformer/{STEM}.safetensors",
        "vae/config.json", f"vae/{STEM}.safetensors",
        "text_encoder/config.json", "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json", "scheduler/scheduler_config.json",
    ]  # fmt: skip
    half = [path for path in SMALL if path != TEXT_ENCODER[1]]
    assert missing_files(half, components=("text_encoder", "vae")) == [TEXT_ENCODER[1]]
