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
from typing import TYPE_CHECKING, Any

from sana_cli.checkpoint import Checkpoint, weight_files
from sana_cli.published import complex_human_instruction
from sana_cli.request import Settings
from sana_cli.user_config import cache_folder

if TYPE_CHECKING:
    from sana_cli.models.text_encoder import EncodedPrompt
    from sana_cli.pipeline import EncodedPair

_VERSION = 2  # counts up when the same files would give other embeddings
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
        return all(_whole(path) is not None for path in self._paths(settings))

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
    """None for a file that is not there or not as it was written: it is made again."""
    from safetensors.torch import load

    from sana_cli.models.text_encoder import EncodedPrompt

    whole = _whole(path)
    if whole is None:
        return None
    content, facts = whole
    with suppress(OSError):
        os.utime(path)  # used just now
    return EncodedPrompt(
        load(content)["embeds"], facts["truncated_tokens"], tuple(facts["unknown_words"])
    )


def _whole(path: Path) -> tuple[bytes, dict[str, Any]] | None:
    """A file's content and what it says of it; None if a bit is not as it was written. No torch."""
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            return None
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        facts = json.loads(header["__metadata__"]["sana"])
        digest, embeds = facts.pop("sha256"), header["embeds"]
        same = digest == _digest(facts, embeds["dtype"], content[start:])
        same = same and embeds["shape"] == facts["shape"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return (content, facts) if same else None


def _digest(facts: dict[str, Any], dtype: str, data: bytes) -> str:
    return hashlib.sha256(json.dumps([facts, dtype]).encode() + data).hexdigest()


def _write(path: Path, encoded: "EncodedPrompt") -> None:
    """Without a place to write, the prompt is encoded again next time."""
    from safetensors import SafetensorError
    from safetensors.torch import save

    embeds = encoded.embeds.detach().cpu().contiguous()
    if not embeds.isfinite().all():
        return
    facts: dict[str, Any] = {
        "truncated_tokens": encoded.truncated_tokens,
        "unknown_words": list(encoded.unknown_words),
        "shape": list(embeds.shape),
    }
    plain = save({"embeds": embeds})
    start = 8 + int.from_bytes(plain[:8], "little")
    dtype = json.loads(plain[8:start])["embeds"]["dtype"]
    facts["sha256"] = _digest(facts, dtype, plain[start:])
    temporary = path.with_name(f".{path.stem[:16]}-{os.getpid()}-{time.monotonic_ns()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save({"embeds": embeds}, metadata={"sana": json.dumps(facts)}))
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
            _remove(path)
    total = 0
    files = [(state, p) for state, p in states if p.suffix == ".safetensors" and p.is_file()]
    for state, path in sorted(files, key=lambda pair: pair[0].st_mtime, reverse=True):
        total += state.st_size
        if total > LARGEST:
            _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):  # a folder, or somebody else's: the others go all the same
        path.unlink()
