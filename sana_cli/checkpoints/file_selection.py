"""Select the files of a diffusers checkpoint to read, by name, in the same way on the hub and on
disk.

Nothing is opened here, and a name says nothing about the dtype inside: published `.fp16` VAE files
hold fp32. The one trap: an index next to a single file means that the single file is stale (seen in
`Sana_1600M_1024px_diffusers`), so an index that has shards always wins.
"""

import re
from collections.abc import Iterable, Sequence

from sana_cli.config.components import COMPONENTS, OPTIONAL

STEMS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "controlnet": "diffusion_pytorch_model",
}
DECODER = "."  # a component that is a repository of its own: its files are in no folder
TOKENIZER = "tokenizer/tokenizer.json"  # the only form that is read
# Used when a folder holds neither the wanted variant nor the plain file. Others (`int4`, `ema`,
# `non_ema`) are different weights, not another storage of the same ones.
_SAME_WEIGHTS = ("bf16", "fp16", "fp32")
_SHARD = re.compile(r"^(?P<before>.+)-\d{5}-of-(?P<count>\d{5})(?P<after>\..+)$")


def select_weights(
    file_names: Iterable[str], *, stem: str, weight_variant: str | None = None
) -> str | None:
    """Select the index or the single file to load from one component's folder; None if it has
    neither.

    `file_names` are names inside the folder. Order: the wanted variant, the plain files, any other
    variant; and in each the index (if at least one of its shards is there) before the single file.
    """
    names = set(file_names)
    for variant in dict.fromkeys((weight_variant, None, *_SAME_WEIGHTS)):
        for index in _index_names(stem, variant):
            if index in names and select_shards(names, index):
                return index
        single = f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"
        if single in names:
            return single
    return None


def select_shards(file_names: Iterable[str], index_name: str) -> list[str]:
    """Select the shards that belong to an index by name; its `weight_map` is the authority once read."""
    stem, variant = _split_index_name(index_name)
    owners = {(stem, ".safetensors")}
    if variant:  # diffusers and transformers disagreed over the years
        owners = {(f"{stem}.{variant}", ".safetensors"), (stem, f".{variant}.safetensors")}
    return sorted(
        name
        for name in file_names
        if (shard := _SHARD.match(name)) and (shard["before"], shard["after"]) in owners
    )


def select_files(
    paths: Sequence[str],
    *,
    weight_variant: str | None = None,
    components: Sequence[str] = COMPONENTS,
) -> list[str]:
    """Select the files of a repo or folder to read, small ones first within each component; optional ones where they are.

    `weight_variant` is for the transformer. The plain VAE and text encoder files are preferred:
    their variant copies have the same size.
    """
    selected = [path for path in ("model_index.json", "sana.json") if path in paths]
    optional = OPTIONAL if "transformer" in components else ()
    for component in (*components, *optional):
        names = _names_in(paths, component)
        if component == "tokenizer":
            chosen = _tokenizer_files(names)
        elif component == "scheduler":
            chosen = [name for name in names if name == "scheduler_config.json"]
        else:
            wanted = weight_variant if component == "transformer" else None
            weights = select_weights(names, stem=stem_of(component), weight_variant=wanted)
            chosen = [name for name in names if name == "config.json"]
            chosen += [weights] if weights else []
            chosen += select_shards(names, weights) if weights and weights.endswith(".json") else []
        selected += chosen if component == DECODER else [f"{component}/{name}" for name in chosen]
    return selected


def missing_files(selected: Sequence[str], *, components: Sequence[str] = COMPONENTS) -> list[str]:
    """List what a selection lacks before it can be loaded, judged by names; for error messages."""
    is_model = tuple(components) != (DECODER,)
    missing = ["model_index.json"] if is_model and "model_index.json" not in selected else []
    for component in components:
        names = _names_in(selected, component)
        if component == "tokenizer":
            known = {"tokenizer.json", "tokenizer.model"}.intersection(names)
            lacking = [] if known else ["tokenizer.json"]
        elif component == "scheduler":
            lacking = [] if names else ["scheduler_config.json"]
        else:
            lacking = [] if "config.json" in names else ["config.json"]
            weights = select_weights(names, stem=stem_of(component))
            lacking += [] if weights else [f"{stem_of(component)}.safetensors"]
            lacking += _lost_shards(names)
        missing += lacking if component == DECODER else [f"{component}/{name}" for name in lacking]
    return missing


def stem_of(component: str) -> str:
    """Return how the names of a component's weight files begin."""
    return STEMS["vae" if component == DECODER else component]


def _names_in(paths: Iterable[str], folder: str) -> list[str]:
    if folder == DECODER:
        return [path for path in paths if "/" not in path]
    prefix = f"{folder}/"
    names = (path.removeprefix(prefix) for path in paths if path.startswith(prefix))
    return [name for name in names if "/" not in name]


def _tokenizer_files(names: list[str]) -> list[str]:
    # tokenizer.json is complete; the sentencepiece model is the same vocabulary in an older form.
    older = () if "tokenizer.json" in names else (".model",)
    return [name for name in names if name.endswith((".json", ".txt", ".jinja", *older))]


def _index_names(stem: str, variant: str | None) -> tuple[str, ...]:
    if variant is None:
        return (f"{stem}.safetensors.index.json",)
    return (
        f"{stem}.{variant}.safetensors.index.json",  # diffusers
        f"{stem}.safetensors.index.{variant}.json",  # transformers, and diffusers before 0.31
    )


def _split_index_name(index_name: str) -> tuple[str, str | None]:
    stem, *middle = index_name.removesuffix(".json").split(".")
    variants = [part for part in middle if part not in ("safetensors", "index")]
    if len(variants) > 1 or "index" not in middle:
        raise ValueError(f"{index_name!r} is not the name of a safetensors index")
    return stem, variants[0] if variants else None


def _lost_shards(names: Sequence[str]) -> list[str]:
    lost = []
    for before, count, after in sorted({m.group(1, 2, 3) for n in names if (m := _SHARD.match(n))}):
        expected = (f"{before}-{i:05d}-of-{count}{after}" for i in range(1, int(count) + 1))
        lost += [name for name in expected if name not in names]
    return lost
