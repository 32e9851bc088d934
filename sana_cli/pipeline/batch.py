"""Many pictures from one loaded model; what is there already is not drawn again. No torch of its own.

A picture counts as done when its file carries the settings that it would be drawn with, whatever its number is: a rerun
after a kill draws the others, a line that is inserted or edited draws that line only, and settings that are changed for
all lines draw all of them, next to the earlier pictures. Lines without a seed get one that follows from their text, so
that a rerun asks for the same pictures. Nothing is ever replaced.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from sana_cli import files
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.digest import model_digest
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import SanaError, usage_error
from sana_cli.images import file_names
from sana_cli.images.picture_file import read_settings
from sana_cli.pipeline.finished_pictures import FinishedPictures, fits
from sana_cli.request.output_paths import Target, require_fit, require_picture
from sana_cli.request.params import MAX_SEED, GenerationParams, count_of, resolve_all
from sana_cli.request.picture_settings import picture_settings
from sana_cli.request.prompt_file import Line, NothingToDraw, Problem, PromptFile

_Drawn = TypeVar("_Drawn")
TEXTS_AT_ONCE = 500  # encoded prompts that are held, at most 2.8 MB each


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A picture of a batch, and the line that requests it."""

    index: int  # from 1
    line: Line
    params: GenerationParams
    path: Path
    wanted: Mapping[str, Any]  # the settings that its file will carry, as far as they decide it

    @property
    def named(self) -> file_names.Named:
        return file_names.Named(self.params.prompt, self.params.seed, self.index, self.line.id)

    @property
    def cost(self) -> tuple[object, ...]:
        """Jobs of one cost take the same memory and time."""
        keys = (
            "drawn_size",
            "steps",
            "guidance",
            "guidance_interval",
            "cache",
            "pag",
            "strength",
            "upscaled_from",
            "upscale",
            "upscale_strength",
            "control_order",
            "loras",
            "decoder",
        )
        return tuple(str(self.wanted.get(key)) for key in keys)

    def at(self, path: Path) -> "Job":
        return replace(self, path=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The pictures of a file of prompts, which of them are done, and lines that cannot be drawn."""

    jobs: tuple[Job, ...]
    done: Mapping[Path, Mapping[str, Any]]  # what is in their files
    problems: tuple[Problem, ...]
    model_digest: str
    overwrite: bool
    renamed: tuple[Path, ...]  # new names, of pictures whose usual ones are taken

    @classmethod
    def of_nothing(cls, problems: tuple[Problem, ...]) -> "Batch":
        """Make the batch of a file none of whose lines can be drawn."""
        return cls(
            jobs=(), done={}, problems=problems, model_digest="", overwrite=False, renamed=()
        )

    @property
    def pending(self) -> list[Job]:
        return [job for job in self.jobs if job.path not in self.done]

    def without(self, prompts: Container[str]) -> "Batch":
        """Copy the batch without the pending pictures of some prompts."""
        left = (j for j in self.jobs if j.params.prompt not in prompts or j.path in self.done)
        return replace(self, jobs=tuple(left))


def plan_batch(
    found: PromptFile,
    common: GenerationOptions,
    checkpoint: Checkpoint,
    *,
    overwrite: bool,
    name: str | None = None,
) -> Batch:
    """List every picture with its seed and name; `common` holds the output and the options that a line does not set.

    `name` is a pattern for pictures in a folder, without a suffix; None is the usual one.
    `NothingToDraw` where no line can be drawn; SanaError for names that are taken by other pictures.
    """
    target = Target.of_options(common)
    jobs, problems = _jobs(found, replace(common, output=None), checkpoint)
    if not jobs:
        raise NothingToDraw(problems)
    usual_name = "{index}-{slug}-{seed}" if count_of(common) > 1 else "{index}-{slug}"
    pattern = _pattern(target, jobs, name or usual_name)
    digest = model_digest(checkpoint)
    names = file_names.expand(pattern, [job.named for job in jobs])
    jobs = [job.at(name) for job, name in zip(jobs, names, strict=True)]
    for job in jobs:
        require_picture(job.path, False)
        require_fit(job.path, job.params)
    there = FinishedPictures(pattern, digest)
    done: dict[Path, Mapping[str, Any]] = {}
    renamed: list[Path] = []
    if not overwrite:
        jobs = _found(jobs, there, done, is_pattern=file_names.is_pattern(pattern))
        usual = jobs
        jobs = _under_free_names(usual, there, done, is_pattern=file_names.is_pattern(pattern))
        renamed = [job.path for job, before in zip(jobs, usual, strict=True) if job is not before]
    for job in jobs:
        if job.path in done:
            _forget_claim(job.path)
        else:
            files.check_writable(job.path, folder_is_new=target.makes_folders)
    return Batch(
        jobs=tuple(jobs),
        done=done,
        problems=tuple(problems),
        model_digest=digest,
        overwrite=overwrite,
        renamed=tuple(renamed),
    )


def _jobs(
    found: PromptFile, common: GenerationOptions, checkpoint: Checkpoint
) -> tuple[list[Job], list[Problem]]:
    """The pictures of all lines that can be drawn, and the lines that cannot. Both count in `index`."""
    jobs: list[Job] = []
    problems = {problem.place: problem for problem in found.problems}
    seen: Counter[str] = Counter()
    for line in found.lines:
        options = line.options.over(common)
        if options.seed is None:
            said = repr(line.options)  # the same prompt with other settings is no repetition
            options = replace(options, seed=_seed_of(f"{options.prompt}\n{seen[said]}"))
            seen[said] += 1
        try:
            with options.naming_settings():
                pictures = resolve_all(options, checkpoint)
        except SanaError as error:
            told = SanaError(f"{line.place}: {error.message}", hint=error.hint, code=error.code)
            problems[line.place] = Problem(
                order=line.order, place=line.place, error=told, id=line.id
            )
            continue
        jobs += [
            Job(
                index=(line.order - 1) * len(pictures) + number,
                line=line,
                params=params,
                path=Path(),  # its name may depend on the number of pictures
                wanted=picture_settings(params, checkpoint),
            )
            for number, params in enumerate(pictures, start=1)
        ]
    return jobs, sorted(problems.values(), key=lambda problem: problem.order)


def _pattern(target: Target, jobs: list[Job], name: str) -> Path:
    """Pick the pattern of the pictures' names: the requested one, or a default one in a folder. Raises SanaError."""
    path = target.path
    if path is None or path.is_dir() or target.is_folder:
        if path is not None and os.path.lexists(path) and not path.is_dir():
            raise files.no_folder(path)
        return Path(_literal(path or Path())) / f"{name}{target.suffix}"
    if file_names.is_pattern(path):
        return path
    if len(jobs) > 1:
        raise usage_error(
            f"{len(jobs)} pictures cannot all be called {path}",
            f"--output {path.with_suffix('')}/ for a folder, or a pattern such as {path.stem}-{{index}}.png",
        )
    return Path(_literal(path))


def _literal(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")


def _found(
    jobs: list[Job],
    there: FinishedPictures,
    done: dict[Path, Mapping[str, Any]],
    *,
    is_pattern: bool,
) -> list[Job]:
    """Move each job to the file of its finished picture, if any, and add it to `done`. One file serves one job."""
    at_home = {
        job.index for job in jobs if os.path.lexists(job.path) and there.is_at(job.path, job.wanted)
    }
    done |= {job.path: there.settings_of(job.path) or {} for job in jobs if job.index in at_home}
    placed = []
    for job in jobs:
        if is_pattern and job.index not in at_home:
            others = (p for p in there.elsewhere(job.named, job.wanted) if p not in done)
            if (path := next(others, None)) is not None:
                done[path] = there.settings_of(path) or {}
                job = job.at(path)
        placed.append(job)
    return placed


def _under_free_names(
    jobs: list[Job],
    there: FinishedPictures,
    done: Mapping[Path, Mapping[str, Any]],
    *,
    is_pattern: bool,
) -> list[Job]:
    """The jobs, those under new names whose own is taken by another picture of ours: of this batch, or with settings
    that were changed since, be it in a line or for all.

    SanaError where it is taken by a file of others, or the user gave that very name.
    """
    taken = {job.path for job in jobs} | set(done)
    mine = Counter(job.path for job in jobs)
    placed = []
    for job in jobs:
        occupied = mine[job.path] > 1 or os.path.lexists(job.path)
        finished = job.path in done and fits(done[job.path], job.wanted, there.model_digest)
        if occupied and not finished:
            if not is_pattern or there.settings_of(job.path) is None:
                raise _in_the_way(job.path)
            path = file_names.free_name(job.path, lambda p: p in taken or os.path.lexists(p))
            taken.add(path)
            job = job.at(path)
        placed.append(job)
    return placed


def draw_batch(
    batch: Batch,
    *,
    draw: Callable[[Job], _Drawn | None],
    encode_ahead: Callable[[Sequence[GenerationParams]], None],
    advance: Callable[[int, int], None],
) -> Iterator[_Drawn]:
    """Draw the pending pictures with `draw`, which returns None for one that is refused.

    `encode_ahead` gets the pictures of which texts may be encoded together, `advance` the number of finished pictures
    and the number of all. Processes that work on the same batch share it: the first process to claim a picture draws it.
    """
    pending, total = batch.pending, len(batch.jobs)
    finished = len(batch.done)
    for start in range(0, len(pending), TEXTS_AT_ONCE):
        jobs = pending[start : start + TEXTS_AT_ONCE]
        encode_ahead([job.params for job in jobs])
        claimed_by_others: list[Job] = []
        for wait, some in ((0, jobs), (-1, claimed_by_others)):
            for job in some:
                advance(finished, total)
                try:
                    with claim(job.path, wait):
                        is_done = not batch.overwrite and _another_did_it(job, batch.model_digest)
                        drawn = None if is_done else draw(job)
                        if drawn is not None:
                            yield drawn
                        finished += 1
                except Timeout:
                    claimed_by_others.append(job)
    advance(total, total)


@contextmanager
def claim(path: Path, wait: int) -> Iterator[None]:
    """Claim this file for this process within the block. Raises Timeout if another has it; a kill ends a claim.

    `wait` is in seconds; -1 waits without end. The folder is made as for `files.new_file`.
    """
    lock = _lock_of(path)
    while True:
        with files.made_folder(path.parent), FileLock(lock, timeout=wait):
            if not os.path.lexists(lock):  # its owner removed it when we had opened it
                continue
            try:
                yield
            finally:
                with suppress(OSError):  # Windows removes no open file
                    lock.unlink()
            return


def _forget_claim(path: Path) -> None:
    """Remove the lock of a process that was killed after it saved its picture, before it released the claim."""
    if os.path.lexists(_lock_of(path)):
        with suppress(Timeout, OSError), claim(path, 0):
            pass


def _lock_of(path: Path) -> Path:
    digest = hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()[:16]
    return path.with_name(f".sana-{digest}.lock")


def _another_did_it(job: Job, digest: str) -> bool:
    """Check whether another process with the same file of prompts has drawn this picture."""
    if not os.path.lexists(job.path):
        return False
    try:
        return fits(read_settings(job.path), job.wanted, digest)
    except SanaError:
        return False


def _seed_of(text: str) -> int:
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") % MAX_SEED


def _in_the_way(path: Path) -> SanaError:
    return usage_error(
        f"{path} is another picture than the one that would be drawn",
        "choose another --output, or --force to replace it",
    )
