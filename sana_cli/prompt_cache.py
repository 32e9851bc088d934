"""Encoded prompts on disk: a repeated prompt needs no text encoder.

A file a prompt, named by a hash of all that decides its embeddings: the encoder's and the tokenizer's files, the
instruction, the text, precision, device and kernels. Files appear by renaming and are never changed, so that several
processes may share the folder; the ones that were not used for longest go when it grows too large. No torch until a
file is read or written.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sana_cli.checkpoint import Checkpoint, weight_files
from sana_cli.published import complex_human_instruction
from sana_cli.request import Settings
from sana_cli.user_config import cache_folder

if TYPE_CHECKING:
    from sana_cli.models.text_encoder import EncodedPrompt
    from sana_cli.pipeline import EncodedPair

_VERSION = 1  # counts up when the same files would give other embeddings
LARGEST = 64 * 2**20  # bytes of all files; a prompt takes at most 2.8 MB
_ABANDONED_S = 3600  # age at which the temporary file of a killed process is removed


@dataclass(frozen=True, slots=True)
class PromptCache:
    """Encoded prompts of one encoder, in one precision, on one kind of device."""

    encoder: str  # what decides embeddings beside the text

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, *, precision: str, device: str, backend: str
    ) -> "PromptCache":
        """The cache for a model's text encoder, whose files are identified by size and time."""
        folder = checkpoint.folder
        paths = [
            *sorted(weight_files(checkpoint, "text_encoder").paths),
            folder / "text_encoder/config.json",
            folder / "tokenizer/tokenizer.json",
        ]
        states = [(str(p.resolve()), s.st_size, s.st_mtime_ns) for p in paths if (s := _stat(p))]
        return cls(json.dumps([_VERSION, states, precision, device, backend]))

    def path(self, prompt: str, *, enhance: bool) -> Path:
        """Where a prompt's embeddings are, if they are."""
        instruction = complex_human_instruction() if enhance else None
        key = json.dumps([self.encoder, instruction, prompt.lower().strip()])
        return _folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def holds(self, settings: Settings) -> bool:
        """Whether a run with these settings finds all that it needs."""
        return all(path.is_file() for path in self._paths(settings))

    def read(self, settings: Settings) -> "EncodedPair | None":
        """What a run with these settings needs, if all of it is there."""
        from sana_cli.pipeline import EncodedPair

        found = [_read(path) for path in self._paths(settings)]
        whole = [encoded for encoded in found if encoded is not None]
        if len(whole) < len(found):
            return None
        return EncodedPair(whole[0], whole[1] if len(whole) > 1 else None)

    def write(self, settings: Settings, text: "EncodedPair") -> None:
        """Keep what was encoded."""
        for path, encoded in zip(
            self._paths(settings), (text.positive, text.negative), strict=False
        ):
            if encoded is not None:
                _write(path, encoded)

    def _paths(self, settings: Settings) -> list[Path]:
        paths = [self.path(settings.prompt, enhance=settings.enhance)]
        if settings.uses_two_branches:
            paths.append(self.path(settings.negative_prompt, enhance=False))
        return paths


def _folder() -> Path:
    return cache_folder() / "prompts"


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _read(path: Path) -> "EncodedPrompt | None":
    """None for a file that is not there or not whole: it is made again."""
    from safetensors import SafetensorError, safe_open

    from sana_cli.models.text_encoder import EncodedPrompt

    try:
        with safe_open(path, framework="pt") as file:
            embeds, facts = file.get_tensor("embeds").clone(), json.loads(file.metadata()["sana"])
        encoded = EncodedPrompt(embeds, facts["truncated_tokens"], tuple(facts["unknown_words"]))
        os.utime(path)  # used just now
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return encoded if embeds.ndim == 3 and embeds.isfinite().all() else None


def _write(path: Path, encoded: "EncodedPrompt") -> None:
    """Without a place to write, the prompt is encoded again next time."""
    from safetensors import SafetensorError
    from safetensors.torch import save

    facts = {"truncated_tokens": encoded.truncated_tokens, "unknown_words": encoded.unknown_words}
    temporary = path.with_name(f".{path.stem[:16]}-{os.getpid()}-{time.monotonic_ns()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"embeds": encoded.embeds.detach().cpu().contiguous()}
        temporary.write_bytes(save(tensors, metadata={"sana": json.dumps(facts)}))
        os.replace(temporary, path)
        _prune(path.parent)
    except (OSError, SafetensorError):
        with suppress(OSError):
            temporary.unlink()


def _prune(folder: Path) -> None:
    """Remove what was not used for longest until the rest is small enough; other processes may do the same."""
    states = [(state, p) for p in folder.iterdir() if (state := _stat(p)) is not None]
    for state, path in states:
        if path.name.startswith(".") and time.time() - state.st_mtime > _ABANDONED_S:
            path.unlink(missing_ok=True)
    total = 0
    files = [(state, path) for state, path in states if path.suffix == ".safetensors"]
    for state, path in sorted(files, key=lambda pair: pair[0].st_mtime, reverse=True):
        total += state.st_size
        if total > LARGEST:
            path.unlink(missing_ok=True)
