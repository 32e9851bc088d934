"""Many pictures from one loaded model; what is there already is not drawn again. No torch of its own.

A rerun after a kill goes on where it was: a picture counts as done when its file carries the settings that it would be
drawn with. A file with other settings is in the way, and is told before any work. Lines without a seed get one that
follows from their text, so that a rerun asks for the same pictures.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from sana_cli import files, naming
from sana_cli.checkpoint import Checkpoint
from sana_cli.errors import ExitCode, SanaError
from sana_cli.image_io import read_settings
from sana_cli.model_digest import model_digest
from sana_cli.prompt_file import Line
from sana_cli.request import MAX_SEED, Request, output_paths, picture_settings, resolve, seeds_of
from sana_cli.wishes import Wishes

if TYPE_CHECKING:
    from sana_cli.finishing import Picture
    from sana_cli.run import Run

TEXTS_AT_ONCE = 500  # encoded prompts that are held, at most 2.8 MB each


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The pictures of a file of prompts, one request each, and which of them are done."""

    requests: tuple[Request, ...]
    done: frozenset[Path]
    model_digest: str

    @property
    def pending(self) -> list[Request]:
        return [request for request in self.requests if _path(request) not in self.done]

    def without(self, prompts: Container[str]) -> "Batch":
        """The same, but for pictures of some prompts that are still to be drawn."""
        left = (r for r in self.requests if r.prompt not in prompts or _path(r) in self.done)
        return replace(self, requests=tuple(left))


def plan_batch(
    lines: Sequence[Line],
    common: Wishes,
    checkpoint: Checkpoint,
    *,
    count: int,
    overwrite: bool,
    output: Path | None,
) -> Batch:
    """Every picture with its seed and name; `common` is what a line does not say itself.

    SanaError for a line that cannot be drawn, and for names that are taken by other pictures.
    """
    asked: list[Request] = []
    seen: Counter[str] = Counter()
    for line in lines:
        wishes = line.wishes.over(common)
        if wishes.seed is None:
            text = f"{wishes.prompt}\n{seen[str(wishes.prompt)]}"
            seen[str(wishes.prompt)] += 1
            wishes = replace(wishes, seed=_seed_of(text))
        try:
            request = wishes.request(checkpoint, count=count, overwrite=overwrite)
            resolve(request, checkpoint)
        except SanaError as error:
            error.message = f"line {line.number}: {error.message}"
            raise
        asked += [replace(request, seed=seed, count=1) for seed in seeds_of(request)]
    names = _names(output, asked, several=count > 1)
    requests = tuple(
        replace(r, output=name, output_is_pattern=False)
        for r, name in zip(asked, names, strict=True)
    )
    done, digest = set(), model_digest(checkpoint)
    for request in requests:
        if overwrite or not os.path.lexists(_path(request)):
            output_paths(replace(request, overwrite=True), [_seed(request)])  # is it writable?
        elif is_done(request, checkpoint, digest):
            done.add(_path(request))
            _forget_claim(_path(request))
        else:
            raise _in_the_way(_path(request))
    return Batch(requests=requests, done=frozenset(done), model_digest=digest)


def draw_batch(
    run: "Run", batch: Batch, checkpoint: Checkpoint, *, advance: Callable[[int, int], None]
) -> Iterator["Picture"]:
    """Draw what is pending. `advance` is told how many pictures there are, and how many in all.

    Processes that work on the same pictures share them: each is drawn by the one that claims it first.
    """
    pending, total = batch.pending, len(batch.requests)
    finished = len(batch.done)
    for start in range(0, len(pending), TEXTS_AT_ONCE):
        requests = pending[start : start + TEXTS_AT_ONCE]
        run.encode(requests)
        claimed_by_others: list[Request] = []
        for wait, some in ((0, requests), (-1, claimed_by_others)):
            for request in some:
                advance(finished, total)
                try:
                    with _claim(_path(request), wait):
                        if not _another_did_it(request, checkpoint, batch.model_digest):
                            run.turn_to(request)
                            yield from run.pictures()
                        finished += 1
                except Timeout:
                    claimed_by_others.append(request)
    advance(total, total)


@contextmanager
def _claim(path: Path, wait: int) -> Iterator[None]:
    """Nobody else draws this picture within the block; Timeout if somebody does. A kill ends a claim."""
    lock = _lock_of(path)
    while True:
        with FileLock(lock, timeout=wait):
            if not os.path.lexists(lock):  # its owner removed it when we had opened it
                continue
            try:
                yield
            finally:
                with suppress(OSError):  # Windows removes no open file
                    lock.unlink()
            return


def _forget_claim(path: Path) -> None:
    """Remove what a process left that was killed when its picture was there, but not told."""
    if os.path.lexists(_lock_of(path)):
        with suppress(Timeout, OSError), _claim(path, 0):
            pass


def _lock_of(path: Path) -> Path:
    digest = hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()[:16]
    return path.with_name(f".sana-{digest}.lock")


def is_done(request: Request, checkpoint: Checkpoint, digest: str) -> bool:
    """Whether the file of a request is the picture that it would draw."""
    try:
        found = read_settings(_path(request))
    except SanaError:
        return False
    wanted = picture_settings(resolve(request, checkpoint), checkpoint, _seed(request))
    same_model = found.get("model_digest", digest) == digest
    return same_model and all(found.get(key) == value for key, value in wanted.items())


def _another_did_it(request: Request, checkpoint: Checkpoint, digest: str) -> bool:
    """A second process may work on the same file of prompts."""
    there = os.path.lexists(_path(request)) and not request.overwrite
    return there and is_done(request, checkpoint, digest)


def _names(target: Path | None, asked: Sequence[Request], *, several: bool) -> list[Path]:
    if target is None or target.is_dir():
        name = "{index}-{slug}-{seed}.png" if several else "{index}-{slug}.png"
        folder = str(target or Path()).replace("{", "{{").replace("}", "}}")
        target = Path(folder) / name
    elif asked[0].output_is_folder:
        raise files.no_folder(target)
    elif not naming.is_pattern(target) and len(asked) > 1:
        raise SanaError(
            f"{len(asked)} pictures cannot all be called {target}",
            hint=f"--output FOLDER, or a pattern such as {target.stem}-{{index}}.png",
            code=ExitCode.USAGE,
        )
    if not naming.is_pattern(target):
        return [target]
    return naming.expand(target, [(request.prompt, _seed(request)) for request in asked])


def _seed_of(text: str) -> int:
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") % MAX_SEED


def _seed(request: Request) -> int:
    assert request.seed is not None
    return request.seed


def _path(request: Request) -> Path:
    assert request.output is not None
    return request.output


def _in_the_way(path: Path) -> SanaError:
    error = files.already_exists(path)
    error.message = f"{path} is another picture than the one that would be drawn"
    error.hint = "choose another --output, or --force to replace it"
    return error
