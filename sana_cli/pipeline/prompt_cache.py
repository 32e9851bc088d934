"""Encoded prompts on disk. A repeated prompt needs no text encoder; a known instruction halves the work for a new one.

A file a prompt, named by a hash of all that decides its embeddings: the encoder's and the tokenizer's files, the
instruction, the text, precision, device and kernels. One more for the keys and values of the instruction. Files appear
by renaming and are never changed, so that several processes may share the folder; `prune` removes the ones that were
not used for longest, and is for once a run: it takes longer the more there are. No torch until a file is read or
written.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

from quant.files import new_file, read_small
from sana_cli.checkpoints.checkpoint import Checkpoint, weight_files
from sana_cli.checkpoints.file_selection import TOKENIZER
from sana_cli.config.places import cache_folder
from sana_cli.config.published import complex_human_instruction
from sana_cli.request.params import GenerationParams
from sana_cli.request.runtime import RuntimeOptions

if TYPE_CHECKING:
    from torch import Tensor

    from sana_cli.models.text_encoder import EncodedPrompt, Instruction
    from sana_cli.pipeline.text import EncodedPair

_VERSION = 3  # counts up when the same files would give other embeddings
LARGEST = 192 * 2**20  # bytes of all files; a prompt takes at most 2.8 MB, an instruction 47 MB


@dataclass(frozen=True, slots=True)
class PromptCache:
    """Encoded prompts of one encoder, in one precision, on one kind of device."""

    encoder: str  # JSON of all that decides embeddings, except the text
    folder: Path = field(default_factory=lambda: _folder())
    largest: int = LARGEST  # bytes of all files that `prune` leaves

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, *, precision: str, device: str, backend: str
    ) -> "PromptCache":
        """The cache for a model's text encoder, whose files are identified by size and time."""
        folder = checkpoint.folder
        paths = [
            *sorted(weight_files(checkpoint, "text_encoder").paths),
            folder / "text_encoder/config.json",
            folder / TOKENIZER,
        ]
        states = [(str(p.resolve()), s.st_size, s.st_mtime_ns) for p in paths if (s := _stat(p))]
        return cls(json.dumps([_VERSION, states, precision, device, backend]))

    @classmethod
    def wanted(
        cls, checkpoint: Checkpoint, runtime: RuntimeOptions, *, precision: str, device: str
    ) -> "PromptCache | None":
        """The cache of a run; None where none is wanted, or the model's files are not here yet."""
        if not runtime.prompt_cache or checkpoint.absent is not None:
            return None
        return cls.of(checkpoint, precision=precision, device=device, backend=runtime.backend)

    def path(self, prompt: str, *, enhance: bool, beside_enhanced: bool = False) -> Path:
        """Name the file of a prompt's embeddings. `beside_enhanced` as for `PromptEncoder.encode_negative`."""
        instruction = complex_human_instruction() if enhance or beside_enhanced else None
        return self._named(instruction, beside_enhanced, prompt.lower().strip())

    def holds(self, settings: GenerationParams) -> bool:
        """Check whether all embeddings for these settings are on disk."""
        return all(_whole(path) is not None for path in self._paths(settings))

    def read(self, settings: GenerationParams) -> "EncodedPair | None":
        """Read all embeddings for these settings; None if some are missing."""
        from sana_cli.pipeline.text import EncodedPair

        found = [_read_prompt(path) for path in self._paths(settings)]
        whole = [encoded for encoded in found if encoded is not None]
        if len(whole) < len(found):
            return None
        return EncodedPair(whole[0], whole[1] if len(whole) > 1 else None)

    def read_negative(self, settings: GenerationParams) -> "EncodedPrompt | None":
        """The unconditional branch, if it is needed and there."""
        paths = self._paths(settings)
        return _read_prompt(paths[1]) if len(paths) > 1 else None

    def write(self, settings: GenerationParams, text: "EncodedPair") -> None:
        """Store the embeddings of a picture's texts."""
        for path, encoded in zip(
            self._paths(settings), (text.positive, text.negative), strict=False
        ):
            if encoded is not None:
                facts = {
                    "truncated_tokens": encoded.truncated_tokens,
                    "unknown_words": list(encoded.unknown_words),
                }
                _write(path, {"embeds": encoded.embeds}, facts)

    def prune(self) -> None:
        """Remove what was not used for longest until the rest is small enough. Looks at every file of the cache."""
        with suppress(OSError):
            _prune(self.folder, self.largest)

    def read_instruction(self, token_ids: list[int]) -> "Instruction | None":
        """Read the encoder's keys, values and first state of an instruction, on the CPU; None if they are missing."""
        from sana_cli.models.text_encoder import Instruction

        found = _read(self._named(token_ids))
        if found is None:
            return None
        tensors, _ = found
        past = zip(tensors["keys"].unbind(), tensors["values"].unbind(), strict=True)
        return Instruction(token_ids, list(past), tensors["first_state"])

    def write_instruction(self, instruction: "Instruction") -> None:
        """Store an instruction's keys, values and first state."""
        import torch

        keys, values = (torch.stack(parts) for parts in zip(*instruction.past, strict=True))
        tensors = {"keys": keys, "values": values, "first_state": instruction.first_state}
        _write(self._named(instruction.token_ids), tensors, {})

    def _named(self, *what: Any) -> Path:
        key = json.dumps([self.encoder, *what])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def _paths(self, settings: GenerationParams) -> list[Path]:
        paths = [self.path(settings.prompt, enhance=settings.enhance)]
        if settings.uses_two_branches:
            negative = settings.negative_prompt
            paths.append(self.path(negative, enhance=False, beside_enhanced=settings.enhance))
        return paths


def _folder() -> Path:
    return cache_folder() / "prompts"


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _read_prompt(path: Path) -> "EncodedPrompt | None":
    from sana_cli.models.text_encoder import EncodedPrompt

    found = _read(path)
    if found is None:
        return None
    tensors, facts = found
    return EncodedPrompt(
        tensors["embeds"], facts["truncated_tokens"], tuple(facts["unknown_words"])
    )


def _read(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]] | None":
    """Read the tensors and text of a file; None if it is missing or damaged, so that it is made again."""
    from safetensors.torch import load

    whole = _whole(path)
    if whole is None:
        return None
    with suppress(OSError):
        os.utime(path)  # used just now
    return load(whole[0]), whole[1]


def _whole(path: Path) -> tuple[bytes, dict[str, Any]] | None:
    """A file's content and what it says of it; None if a bit, or its name, is not as it was written. No torch."""
    try:
        content = read_small(path, LARGEST)
        table, start = _table(content)
        facts = json.loads(table.pop("__metadata__")["sana"])
        same = facts.pop("sha256") == _digest(path.name, facts, table, content, start)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return (content, facts) if same else None


def _table(content: bytes) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and where its data begins."""
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), start


def _digest(
    name: str, facts: dict[str, Any], table: dict[str, Any], content: bytes, start: int
) -> str:
    digest = hashlib.sha256(json.dumps([name, facts, table], sort_keys=True).encode())
    digest.update(memoryview(content)[start:])
    return digest.hexdigest()


def _write(path: Path, tensors: "dict[str, Tensor]", facts: dict[str, Any]) -> None:
    """Write a file of the cache; if the folder is not writable, the prompt is encoded again next time."""
    from safetensors import SafetensorError
    from safetensors.torch import save

    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    if not all(t.isfinite().all() for t in tensors.values()):
        return
    plain = save(tensors)
    table, start = _table(plain)
    facts = facts | {"sha256": _digest(path.name, facts, table, plain, start)}
    with suppress(OSError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path, overwrite=True) as file:
            file.write(save(tensors, metadata={"sana": json.dumps(facts)}))


def _prune(folder: Path, largest: int) -> None:
    """Remove what was not used for longest until the rest is small enough; other processes may do the same."""
    files = [(s, p) for p in folder.glob("*.safetensors") if (s := _stat(p)) and S_ISREG(s.st_mode)]
    total = 0
    for state, path in sorted(files, key=lambda pair: pair[0].st_mtime, reverse=True):
        total += state.st_size
        if total > largest:
            with suppress(OSError):  # somebody else's: the others go all the same
                path.unlink()
