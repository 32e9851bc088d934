"""Encoded prompts on disk: found again, never mistaken for others, never in the way."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.models.text_encoder import EncodedPrompt, Instruction
from sana_cli.pipeline import text
from sana_cli.pipeline.prompt_cache import PromptCache
from sana_cli.pipeline.text import EncodedPair
from sana_cli.request.params import GenerationParams, resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prompts"


@pytest.fixture
def cache(folder: Path) -> PromptCache:
    return PromptCache("encoder", folder=folder)


@pytest.fixture
def settings() -> GenerationParams:
    return resolve(
        GenerationOptions(prompt="A cat", negative_prompt="snow"), open_checkpoint("builtin")
    )


PAIR = EncodedPair(
    EncodedPrompt(torch.randn(1, 4, 8), 2, ("flurb",)), EncodedPrompt(torch.randn(1, 2, 8))
)


def test_what_was_written_is_read(
    folder: Path, cache: PromptCache, settings: GenerationParams
) -> None:
    assert cache.read(settings) is None
    assert not cache.holds(settings)
    cache.write(settings, PAIR)
    assert cache.holds(settings)
    found = cache.read(settings)
    assert found is not None
    assert found.negative is not None
    assert PAIR.negative is not None
    assert torch.equal(found.positive.embeds, PAIR.positive.embeds)
    assert torch.equal(found.negative.embeds, PAIR.negative.embeds)
    assert (found.positive.truncated_tokens, found.positive.unknown_words) == (2, ("flurb",))
    assert len(list(folder.iterdir())) == 2


def test_what_decides_the_embeddings_decides_the_file(
    cache: PromptCache, settings: GenerationParams
) -> None:
    cache.write(settings, PAIR)
    assert cache.holds(replace(settings, prompt="  a CAT ")), "the text is lower-cased and stripped"
    assert not cache.holds(replace(settings, prompt="a dog"))
    assert not cache.holds(replace(settings, negative_prompt="rain"))
    assert not cache.holds(replace(settings, enhance=not settings.enhance))
    assert not PromptCache("another").holds(settings)
    model = open_checkpoint("builtin")
    ways = {"precision": "fp32", "device": "cpu", "backend": "auto"}
    caches = [
        PromptCache.of(model, **ways | change)
        for change in ({}, {"precision": "bf16"}, {"device": "cuda"}, {"backend": "native"})
    ]
    assert len(set(caches)) == 4
    assert PromptCache.of(model, **ways) == caches[0]


@pytest.mark.parametrize("damage", [b"", b"no safetensors", None])
def test_damaged_files_are_made_again(
    folder: Path, cache: PromptCache, settings: GenerationParams, damage: bytes | None
) -> None:
    cache.write(settings, PAIR)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-7] if damage is None else damage)
    assert cache.read(settings) is None
    cache.write(settings, PAIR)
    assert cache.read(settings) is not None


@pytest.mark.parametrize(
    ("embeds", "facts"),
    [
        (torch.zeros(1, 5, 3), {}),
        (torch.zeros(1, 1, 4), {}),
        (torch.zeros(1, 5, 4, dtype=torch.int32), {}),
        (None, {"unknown_words": [1, None]}),
        (None, {"truncated_tokens": "x"}),
    ],
)
def test_files_that_somebody_changed(
    folder: Path,
    cache: PromptCache,
    settings: GenerationParams,
    embeds: torch.Tensor | None,
    facts: dict[str, object],
) -> None:
    cache.write(settings, PAIR)
    assert cache.holds(settings)
    for path in folder.iterdir():
        with safe_open(path, framework="pt") as file:
            kept, told = file.get_tensor("embeds"), json.loads(file.metadata()["sana"])
        changed = {"embeds": kept if embeds is None else embeds}
        path.write_bytes(save(changed, metadata={"sana": json.dumps(told | facts)}))
    assert not cache.holds(settings), "a plan must not count on it"
    assert cache.read(settings) is None


def test_files_under_the_names_of_others(cache: PromptCache, settings: GenerationParams) -> None:
    """A whole file of another prompt, or of an instruction, is not taken for this one's."""
    other = replace(settings, prompt="a dog")
    cache.write(settings, PAIR)
    cache.write(other, PAIR)
    path, strange = (cache.path(s.prompt, enhance=s.enhance) for s in (settings, other))
    path.write_bytes(strange.read_bytes())
    assert not cache.holds(settings)
    assert cache.read(settings) is None
    tensor = torch.zeros(1, 2, 8)
    cache.write_instruction(Instruction([1, 2], [(tensor, tensor)], tensor))
    instruction = cache._named([1, 2])
    path.write_bytes(instruction.read_bytes())
    assert cache.read(settings) is None
    instruction.write_bytes(strange.read_bytes())
    assert cache.read_instruction([1, 2]) is None


def test_what_cannot_be_removed_keeps_nothing_else(
    folder: Path, settings: GenerationParams
) -> None:
    cache = PromptCache("encoder", folder=folder, largest=0)
    for name in (".old", "folder.safetensors"):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, (0, 0))
    cache.write(settings, PAIR)
    cache.prune()
    assert sorted(path.name for path in folder.iterdir()) == [".old", "folder.safetensors"]


def test_broken_values_are_not_used(cache: PromptCache, settings: GenerationParams) -> None:
    broken = EncodedPrompt(torch.full((1, 2, 3), torch.nan))
    cache.write(settings, EncodedPair(broken, broken))
    assert cache.read(settings) is None


def test_the_folder_stays_small(folder: Path, settings: GenerationParams) -> None:
    cache = PromptCache("encoder", folder=folder, largest=1000)
    one = replace(settings, guidance_scale=1.0)
    for i in range(8):
        cache.write(replace(one, prompt=str(i)), PAIR)
        cache.prune()
        for path in folder.iterdir():  # each older than the next
            os.utime(path, (path.stat().st_mtime - 10,) * 2)
    assert cache.holds(replace(one, prompt="7")), "the newest stays"
    assert not cache.holds(replace(one, prompt="0"))
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1000


def test_abandoned_files_go(folder: Path, cache: PromptCache, settings: GenerationParams) -> None:
    folder.mkdir()
    old, new = folder / ".sana-1.tmp", folder / ".sana-2.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.write(settings, PAIR)
    assert not old.exists()
    assert new.exists(), "another process may be at it"


def test_without_a_place_to_write(tmp_path: Path, settings: GenerationParams) -> None:
    (tmp_path / "file").write_text("")
    cache = PromptCache("encoder", folder=tmp_path / "file" / "prompts")
    cache.write(settings, PAIR)
    assert cache.read(settings) is None


def test_many_at_once(folder: Path, settings: GenerationParams) -> None:
    """Writers, readers and removal in each other's way: whoever reads gets a whole prompt or none."""
    cache = PromptCache("encoder", folder=folder, largest=4000)
    problems: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for i in range(25):
                mine = replace(settings, prompt=str((seed + i) % 5))
                cache.write(mine, PAIR)
                cache.prune()
                found = cache.read(mine)
                assert found is None or torch.equal(found.positive.embeds, PAIR.positive.embeds)
        except BaseException as error:  # noqa: BLE001  told below
            problems.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert all(path.suffix == ".safetensors" for path in folder.iterdir()), "nothing half-written"


def test_it_is_pruned_once_a_run(folder: Path, settings: GenerationParams) -> None:
    """Looking at all that is kept takes the longer the more there is."""
    looked: list[Path] = []

    class Watched(PromptCache):
        def prune(self) -> None:
            looked.append(self.folder)

    cache = Watched("encoder", folder=folder)
    components = SimpleNamespace(unpruned=10**9)
    for _ in range(30):
        cache.write(settings, PAIR)
        text._prune(components, cache, 1)  # type: ignore[arg-type]
    assert looked == [folder]
    for _ in range(10):
        text._prune(components, cache, 1)  # type: ignore[arg-type]
    assert looked == [folder, folder], "a long run does not fill the disk"
