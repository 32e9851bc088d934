"""Every model that can be named here: the built-in, the published ones, the cache's, and quantized ones. No torch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from quant.manifest import MANIFEST, FormatError, read_manifest
from sana_cli.checkpoints import hub_cache
from sana_cli.checkpoints.builtin_packed import PACKED_MODELS
from sana_cli.checkpoints.model_names import BUILTIN_FOLDER
from sana_cli.config.generation import BUILTIN
from sana_cli.config.places import models_folder
from sana_cli.config.variants import VARIANTS, find_variant

State = Literal["built in", "downloaded", "partly downloaded", "not downloaded", "quantized"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """A model of `sana models`. `size_bytes` is on disk; `download_bytes` is about what is still to
    download.
    """

    name: str
    state: State
    size_bytes: int = 0
    download_bytes: int = 0
    folder: Path | None = None
    native_size: int | None = None  # pixels a side
    steps: int | None = None
    made_of: str = ""  # recipe and base model, of one that was quantized here
    problem: str = ""  # why it cannot be used, in words

    @property
    def note(self) -> str:
        """Describe the model for people, in a few words."""
        size = f"{self.native_size} px, {self.steps} steps" if self.native_size else ""
        return self.problem or self.made_of or size


def listed_models() -> list[ListedModel]:
    """List all models, in the order of a list for people."""
    return [*_builtin(), *_published(), *_others_in_the_cache(), *quantized_models()]


def size_on_disk(folder: Path) -> int:
    """Add up the bytes of a model's files as `list_models` does, without models that are folders inside of it."""
    size = hub_cache.disk_bytes([folder])
    if folder == BUILTIN_FOLDER:
        size -= hub_cache.disk_bytes(folder / packed.folder for packed in PACKED_MODELS.values())
    return size


def _builtin() -> Iterator[ListedModel]:
    """List the models that come with the package; all others are folders inside of the first one's."""
    folders = {name: BUILTIN_FOLDER / packed.folder for name, packed in PACKED_MODELS.items()}
    for name, folder in ((BUILTIN, BUILTIN_FOLDER), *folders.items()):
        if not (folder / "sana.json").is_file():  # an installation without it
            continue
        about = json.loads((folder / "sana.json").read_text(encoding="utf-8"))
        yield ListedModel(
            name=name, state="built in", size_bytes=size_on_disk(folder), folder=folder,
            native_size=about["native_size"], steps=about["steps"],
        )  # fmt: skip


def _published() -> list[ListedModel]:
    models = []
    for variant in VARIANTS.values():
        total = sum(variant.download_bytes.values())
        cached = hub_cache.find(variant.repo, weight_variant=variant.weight_variant)
        model = _of_repo(variant.alias, cached, total=total)
        models.append(replace(model, native_size=variant.native_size, steps=variant.steps))
    return models


def _of_repo(name: str, cached: hub_cache.CachedRepo | None, *, total: int) -> ListedModel:
    if cached is None:
        return ListedModel(name=name, state="not downloaded", download_bytes=total)
    size = cached.size_bytes
    return ListedModel(
        name=name,
        state="downloaded" if cached.complete else "partly downloaded",
        size_bytes=size,
        download_bytes=0 if cached.complete else max(0, total - size),
        folder=cached.snapshot or cached.folder,
    )


def _others_in_the_cache() -> list[ListedModel]:
    listed = {variant.repo for variant in VARIANTS.values()}
    models = []
    for repo_id in hub_cache.sana_repos():
        if repo_id not in listed:
            variant = find_variant(repo_id)
            weight_variant = variant.weight_variant if variant else None
            cached = hub_cache.find(repo_id, weight_variant=weight_variant)
            models.append(_of_repo(repo_id, cached, total=0))
    return models


def quantized_models() -> list[ListedModel]:
    """Folders that `sana quantize` and `sana pull --quantize` put where they are known by name."""
    models = []
    for folder in sorted(models_folder().glob("[!.]*")):
        if not (folder / MANIFEST).is_file():
            continue
        size = hub_cache.disk_bytes([folder])
        model = ListedModel(name=folder.name, state="quantized", size_bytes=size, folder=folder)
        try:
            manifest = read_manifest(folder)
            made_of = f"{manifest.recipe} of {manifest.base_model}"
            models.append(replace(model, made_of=made_of))
        except (FormatError, OSError) as error:
            models.append(replace(model, problem=f"unreadable: {error}"))
    return models


def total_bytes() -> int:
    """Add up the bytes on disk of all models but the built-in one; shared files count once."""
    repos = {model.repo for model in VARIANTS.values()} | set(hub_cache.sana_repos())
    cached = [found.folder for repo in repos if (found := hub_cache.find(repo))]
    return hub_cache.disk_bytes([*cached, models_folder()])
