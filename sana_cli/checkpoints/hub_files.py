"""Handle a repo's folder in the hub's cache: its paths, its links, and whether its files match the
hub.

Commits, digests and names come from a hub, from files that other programs wrote, and from links
that anybody may have planted. So they become paths only if they are well formed, and only entries
of this folder's own `snapshots/` and `blobs/` are removed. Standard library only.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import unicodedata
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.files import new_file, open_regular, read_small, replace_file

_REPO = re.compile(r"(?!.*(?:--|\.\.))\w[\w.-]*/\w[\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REVISION = re.compile(r"[\w.-]+(/[\w.-]+)*")
_LISTING_VERSION = 1  # huggingface_hub's, whose file this is: `trees/COMMIT.json`
_LARGEST = 2**63 - 1  # bytes that a file system can count
_LONGEST_REPO = 96  # characters; huggingface_hub's limit
_LONGEST_NAME = 255  # bytes; most file systems' limit
_NOT_IN_NAMES = frozenset('\\:*?"<>|')  # Windows
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)  # Windows


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a repo as its hub announces it."""

    name: str  # as announced: `unsafe_name` says whether it may become a path
    size: int  # bytes
    digest: str  # hex: SHA-256 of a file in LFS, git's SHA-1 of any other

    @property
    def is_large(self) -> bool:
        """Return whether the hub keeps the file in LFS."""
        return len(self.digest) == 64


def remote_file(name: object, size: object, digest: object) -> RemoteFile | None:
    """Return a file; None if size or digest are malformed."""
    if not isinstance(name, str) or not isinstance(digest, str) or isinstance(size, bool):
        return None
    if not isinstance(size, int) or not 0 <= size <= _LARGEST or not _DIGEST.fullmatch(digest):
        return None
    return RemoteFile(name=name, size=size, digest=digest)


def is_repo_id(text: str) -> bool:
    """Return whether the text has a hub's form OWNER/NAME and can name a folder."""
    return len(text) <= _LONGEST_REPO and _REPO.fullmatch(text) is not None


def is_commit(text: object) -> bool:
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def unsafe_name(names: Iterable[str]) -> str | None:
    """The first name that cannot be a file's on every system, or that another one differs from in case only."""
    seen = set()
    for name in names:
        same = unicodedata.normalize("NFC", name).casefold()
        if same in seen or not all(map(_is_plain, name.split("/"))):
            return name
        seen.add(same)
    return None


def _is_plain(part: str) -> bool:
    return (
        part.isprintable()  # also: no lone surrogates, which no name can hold
        and not part.endswith((" ", "."))  # the empty name, "." and ".." too
        and part != ""
        and not _NOT_IN_NAMES.intersection(part)
        and not _RESERVED.fullmatch(part)
        and len(part.encode()) <= _LONGEST_NAME
    )


def has_digest(path: Path, file: RemoteFile) -> bool:
    """Return whether the content has the announced digest; raise OSError if it cannot be read."""
    with open_regular(path) as content:
        size = os.fstat(content.fileno()).st_size
        if size != file.size:
            return False
        if file.is_large:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.digest
        header = f"blob {size}\0".encode()
        found = hashlib.sha1(header + content.read(size), usedforsecurity=False)
        return found.hexdigest() == file.digest


def is_sound(path: Path, file: RemoteFile) -> bool:
    """Return whether the content has the announced digest; False if it cannot be read, as on a broken disk."""
    try:
        return has_digest(path, file)
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class RepoFolder:
    """`models--OWNER--NAME` in the hub's cache, whether it exists or not."""

    path: Path

    def blob(self, digest: str) -> Path:
        """Return the path of content with this digest; raise ValueError if it is not a digest."""
        if not is_digest(digest):
            raise ValueError(f"{digest!r} is no digest")
        return self.path / "blobs" / digest

    def incomplete(self, digest: str) -> Path:
        """Return the path of a file being received. It outlives the process, so a broken download resumes."""
        blob = self.blob(digest)
        return blob.with_name(f"{blob.name}.sana.incomplete")

    def lock(self, digest: str) -> Path:
        """Return the path of the lock that huggingface_hub uses, too."""
        return self.path.parent / ".locks" / self.path.name / f"{self.blob(digest).name}.lock"

    def snapshot(self, commit: str) -> Path:
        """Return the folder of a commit's files; raise ValueError for a malformed commit."""
        if not is_commit(commit):
            raise ValueError(f"{commit!r} is no commit")
        return self.path / "snapshots" / commit

    # -- which commit --

    def commit(self, revision: str) -> str | None:
        """The commit that a branch or tag was at when it was last looked up, or None."""
        if is_commit(revision):
            return revision
        with contextlib.suppress(OSError, ValueError):
            text = read_small(self._reference(revision), 1_000).decode().strip()
            return text if is_commit(text) else None
        return None

    def note_commit(self, revision: str, commit: str) -> None:
        """Keep which commit a branch or tag is at."""
        if is_commit(revision) or self.commit(revision) == commit:
            return
        self.snapshot(commit)  # is it one?
        _write_whole(self._reference(revision), commit)

    def _reference(self, revision: str) -> Path:
        if not _REVISION.fullmatch(revision) or ".." in revision:
            raise ValueError(f"{revision!r} is no branch")
        return self.path / "refs" / revision

    # -- what a commit holds --

    def listing(self, commit: str) -> dict[str, RemoteFile] | None:
        """Return all files of a commit if they were recorded; malformed entries are omitted."""
        try:
            content = json.loads(read_small(self._listing(commit)))
            if content["format_version"] != _LISTING_VERSION:
                return None
            entries: dict[str, Any] = content["files"]
            files = [_noted_file(name, entry) for name, entry in entries.items()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return {file.name: file for file in files if file is not None}

    def files(self, commit: str) -> dict[str, RemoteFile]:
        """Return the files of a commit with their digests: as recorded, else by the links of existing files."""
        if (noted := self.listing(commit)) is not None:
            return noted
        found, snapshot = {}, self.snapshot(commit)
        for path in snapshot.rglob("*"):
            with contextlib.suppress(OSError):
                name, digest = path.relative_to(snapshot).as_posix(), Path(os.readlink(path)).name
                if (file := remote_file(name, path.stat().st_size, digest)) is not None:
                    found[name] = file
        return found

    def note_listing(self, commit: str, files: Mapping[str, RemoteFile]) -> None:
        """Keep what a commit holds, as huggingface_hub does."""
        entries = {
            name: {"size": file.size, "blob_id": file.digest}
            | ({"lfs_sha256": file.digest, "lfs_size": file.size} if file.is_large else {})
            for name, file in sorted(files.items())
        }
        text = json.dumps({"format_version": _LISTING_VERSION, "files": entries}, indent=1)
        _write_whole(self._listing(commit), text)

    def _listing(self, commit: str) -> Path:
        return self.path / "trees" / f"{self.snapshot(commit).name}.json"

    # -- files --

    def is_here(self, commit: str, file: RemoteFile) -> bool:
        """Return whether the commit's file exists here with its announced length."""
        path = self.snapshot(commit) / file.name
        with contextlib.suppress(OSError):
            return path.is_file() and path.stat().st_size == file.size
        return False

    def link(self, commit: str, file: RemoteFile, *, symlinks: bool) -> None:
        """Give the blob of a file its name in the commit's folder. Without links the blob itself is moved there."""
        path, blob = self._own(commit, file.name), self.blob(file.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._require_own(commit, path)
        if symlinks:
            new = path.with_name(f".{uuid.uuid4().hex}.tmp")
            with contextlib.suppress(OSError, NotImplementedError):
                new.symlink_to(os.path.relpath(blob, path.parent))
                replace_file(new, path)
                return
            new.unlink(missing_ok=True)
        replace_file(blob, path)

    def discard(self, commit: str, file: RemoteFile) -> None:
        """Remove a bad file and its blob, both in this folder; what links lead to elsewhere stays."""
        path, blob = self._own(commit, file.name), self.blob(file.digest)
        self._require_own(commit, path)
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)

    def _own(self, commit: str, name: str) -> Path:
        if unsafe_name([name]):
            raise ValueError(f"{name!r} is no name for a file")
        return self.snapshot(commit) / name

    def _require_own(self, commit: str, path: Path) -> None:
        self.require_own_folders()
        top = self.snapshot(commit)
        _require_no_links(folder for folder in path.parents if folder.is_relative_to(top))

    def require_own_folders(self) -> None:
        """OSError where `blobs` or `snapshots` is a link, through which other files would be changed."""
        _require_no_links([self.path / "blobs", self.path / "snapshots"])


def _require_no_links(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_symlink():
            reason = "a link stands where the cache keeps a folder"
            raise OSError(errno.ENOTDIR, reason, str(folder))


def _noted_file(name: str, entry: Any) -> RemoteFile | None:
    return remote_file(name, entry["size"], entry.get("lfs_sha256") or entry["blob_id"])


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path, overwrite=True) as file:
        file.write(text.encode())
