"""Identify a model, whatever it is called, by a short digest, without reading gigabytes. No torch.

A quantized folder's manifest holds digests of everything in it. For other files, lengths and some
pieces of each are read: training changes every part of a file, so two models agree in all of them
only if they are the same.
"""

import hashlib
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from quant.files import open_regular
from quant.manifest import MANIFEST
from sana_cli.checkpoints.checkpoint import PTH_PARTS, Checkpoint, weight_files
from sana_cli.checkpoints.kept_digests import kept_digest
from sana_cli.checkpoints.known_digests import digest_ahead, known_digest
from sana_cli.checkpoints.model_files import CORRUPT, unreadable
from sana_cli.errors import SanaError

_PIECES, _PIECE = 16, 4096  # of each file; bytes
_DIGITS = 16
_SHORT = 10  # digits
_AT_ONCE = 2**28  # bytes of a file that is read whole before drawing, in less than a second


def model_digest(checkpoint: Checkpoint) -> str:
    """Return a digest of the model's files, equal wherever they are, in milliseconds; "" for a
    model that is not here.
    """
    if checkpoint.absent is not None:
        return ""
    try:
        return files_digest(_files(checkpoint))
    except OSError as error:
        raise unreadable(Path(error.filename or checkpoint.folder), CORRUPT, error) from error


def files_digest(paths: Iterable[Path]) -> str:
    """Return a digest of lengths and pieces of files, in their order. Raises OSError."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.stat().st_size.to_bytes(8, "little"))
        for piece in _pieces(path):
            digest.update(piece)
    return digest.hexdigest()[:_DIGITS]


def weights_hash(checkpoint: Checkpoint) -> str:
    """Return the beginning of the SHA-256 of the transformer's file, by which galleries look up models.

    A file that neither a manifest nor the hub's cache, which names files by their digests, knows is read: a large one
    once on this machine. "" where it is not one file, or is gone.
    """
    if checkpoint.absent is not None:
        return ""
    if checkpoint.manifest is not None:
        part = checkpoint.manifest.components.get("transformer")
        return part.sha256[:_SHORT] if part else ""
    with suppress(OSError, SanaError):  # removed since it was loaded: no reason to lose the picture
        blob = _transformer_file(checkpoint)
        if blob is not None:
            return _digest_of(blob)[:_SHORT]
    return ""


def hash_while_drawing(checkpoint: Checkpoint) -> threading.Thread | None:
    """Find `weights_hash` of a large file in a thread, best when its weights have just been read; None where none is needed."""
    if checkpoint.absent is not None or checkpoint.manifest is not None:
        return None
    with suppress(OSError, SanaError):
        blob = _transformer_file(checkpoint)
        if blob is None or _is_named_by_digest(blob) or not _is_large(blob):
            return None
        # A daemon: a process that ends early does not wait for gigabytes.
        thread = threading.Thread(
            target=weights_hash, args=(checkpoint,), name="weights hash", daemon=True
        )
        thread.start()
        return thread
    return None


def digests_ahead(checkpoint: Checkpoint) -> None:
    """Find the digests that drawing will need in a thread, best before torch is imported.

    Not that of the text encoder: a prompt whose encoding is kept does without.
    """
    with suppress(OSError, SanaError):  # who needs the files will say what is wrong
        digest_ahead(_read_whole(checkpoint))


def _read_whole(checkpoint: Checkpoint) -> list[Path]:
    """Return the files that drawing reads whole for their digests, the text encoder's aside."""
    if checkpoint.absent is not None:
        return []
    if checkpoint.manifest is not None:
        parts = checkpoint.manifest.components
        wanted = ["transformer", *(["vae"] if checkpoint.decoder is None else [])]
        return [checkpoint.folder / parts[part].file for part in wanted if part in parts]
    blob = _transformer_file(checkpoint)
    return [] if blob is None or _is_named_by_digest(blob) or _is_large(blob) else [blob]


def _transformer_file(checkpoint: Checkpoint) -> Path | None:
    """Return the file that holds the transformer; None where it is not one."""
    paths = (
        [checkpoint.pth] if checkpoint.pth else list(weight_files(checkpoint, "transformer").paths)
    )
    return paths[0].resolve() if len(paths) == 1 else None


def _digest_of(blob: Path) -> str:
    """Return the SHA-256 of a file, by its name where that is it. Raises OSError."""
    if _is_named_by_digest(blob):
        return blob.name
    return kept_digest(blob) if _is_large(blob) else known_digest(blob)


def _is_large(blob: Path) -> bool:
    return blob.stat().st_size > _AT_ONCE


def _is_named_by_digest(blob: Path) -> bool:
    return blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name) is not None


def _files(checkpoint: Checkpoint) -> Iterator[Path]:
    """Yield the files that decide a picture, in a fixed order."""
    if checkpoint.manifest is not None:
        yield checkpoint.folder / MANIFEST
        return
    for component in checkpoint.parts:
        if checkpoint.pth is not None and component in PTH_PARTS:
            if component == "transformer":
                yield checkpoint.pth
            continue
        yield checkpoint.folder / component / "config.json"
        yield from sorted(weight_files(checkpoint, component).paths)


def _pieces(path: Path) -> Iterator[bytes]:
    """Yield a small file whole, a large one in pieces from its first to its last byte."""
    size = path.stat().st_size
    with open_regular(path) as file:
        if size <= _PIECES * _PIECE:
            yield file.read()
            return
        for i in range(_PIECES):
            file.seek((size - _PIECE) * i // (_PIECES - 1))
            yield file.read(_PIECE)
