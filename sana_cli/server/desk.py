"""The desk: every dialect hands its requests in here. It checks them, gives them to the queue, and looks after their jobs."""

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import SanaError
from sana_cli.request.foreign_syntax import tell_foreign_syntax
from sana_cli.request.output_paths import require_fit
from sana_cli.request.params import resolve_all
from sana_cli.request.runtime import runtime_of
from sana_cli.server.engine import Engine, end_early
from sana_cli.server.fair_queue import FairQueue, QueueFull
from sana_cli.server.forecast import require_plan
from sana_cli.server.jobs import Job, Jobs, Work
from sana_cli.server.limits import Limits
from sana_cli.server.problems import Problem
from sana_cli.server.served_models import ServedModels
from sana_cli.server.uploads import Uploads

_LAST_STEP_SECONDS = 3  # for the step that runs when the time is over
_CHECKED_AT_ONCE = 4  # requests; each may read an uploaded picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request in the words of every dialect: options, files, and how it is watched."""

    options: GenerationOptions
    client: str
    dialect: str
    files: Mapping[str, tuple[str, bytes]] | None = None  # "image", "mask": name and content
    keep: bool = True  # in the gallery
    previews: bool = False
    preview_every: int | None = None
    is_own: bool = False  # of the user's own command, which no limit holds


class Desk:
    """Takes requests. In the loop's thread."""

    def __init__(
        self, *, queue: FairQueue, engine: Engine, models: ServedModels, limits: Limits
    ) -> None:
        self.queue, self.engine, self.models, self.limits = queue, engine, models, limits
        self.jobs = Jobs()
        self._checking = asyncio.Semaphore(_CHECKED_AT_ONCE)

    async def check(self, wanted: Wanted) -> Work:
        """Everything that can be wrong with a request, before it waits. Raises Problem."""
        async with self._checking:
            try:
                return await asyncio.to_thread(self._resolved, wanted)
            except SanaError as error:
                raise Problem.of(error) from error

    def _resolved(self, wanted: Wanted) -> Work:
        uploads = Uploads() if wanted.files else None
        try:
            paths: dict[str, Any] = {
                kind: uploads.add(kind, content, name)
                for kind, (name, content) in (wanted.files or {}).items()
                if uploads is not None
            }
            if uploads is not None and not wanted.is_own:
                uploads.check_pixels(self.limits.pixels)
            options = replace(wanted.options, **paths)
            checkpoint = self.models.open(options.model)
            pictures = resolve_all(options, checkpoint)
            require_fit(Path(f"a picture.{options.format or 'png'}"), pictures[0])
            if not wanted.is_own:
                self.limits.check(pictures)
            runtime = runtime_of(options, checkpoint)
            require_plan(checkpoint, runtime, pictures[0], self.engine.max_memory)
            return Work(
                options=options,
                checkpoint=checkpoint,
                runtime=runtime,
                pictures=tuple(uploads.named(p) if uploads else p for p in pictures),
                uploads=uploads,
            )
        except BaseException as error:
            if uploads is not None:
                uploads.remove()
                if isinstance(error, SanaError):
                    raise uploads.in_words(error) from error
            raise

    async def submit(self, wanted: Wanted) -> Job:
        """Check a request and give it to the queue. Raises Problem: also for a full queue."""
        self._require_running()
        work = await self.check(wanted)
        job = Job(
            work, client=wanted.client, dialect=wanted.dialect, keep=wanted.keep,
            previews=wanted.previews, preview_every=wanted.preview_every,
        )  # fmt: skip
        try:
            self._require_running()
            self.queue.put(job)
        except (QueueFull, Problem) as error:
            if work.uploads is not None:
                work.uploads.remove()
            if isinstance(error, Problem):
                raise
            raise self._full() from error
        self.jobs.add(job)
        self.tell_places(job)
        prompts = [work.pictures[0].prompt]
        plain = prompts if work.options.wildcards is False else ()
        if notice := tell_foreign_syntax(prompts, plain):
            job.post("notice", message=notice)
        return job

    def _require_running(self) -> None:
        if self.queue.is_closed:
            raise Problem(
                503, "this server is ending", "send the request again later",
                headers={"Retry-After": "10"},
            )  # fmt: skip
        if self.engine.problem is not None:
            raise Problem.of(self.engine.problem)

    def _full(self) -> Problem:
        seconds = max(1, math.ceil(self.engine.seconds * len(self.queue)))
        return Problem(
            429, f"{len(self.queue)} requests wait already", f"try again in {seconds} s",
            code="rate_limit_exceeded", headers={"Retry-After": str(seconds)},
        )  # fmt: skip

    def tell_places(self, new: Job | None = None) -> None:
        """Say to each waiting job which place it has now."""
        for place, job in enumerate(self.queue.order(), start=1):
            if job.status == "queued" and (job.place != place or job is new):
                job.place = place  # now: whoever asked is answered before the event is taken
                job.post("queued", place=place)

    def cancel(self, job: Job) -> None:
        """Stop a job: at once where it waits, after its step where it runs."""
        job.cancel()
        if self.queue.remove(job):
            end_early(job, self.queue)
            self.tell_places()

    async def finish(self, seconds: float) -> None:
        """Take no more requests, let what waits and runs end within `seconds`, stop the rest.

        A stage that cannot be interrupted, such as decoding, may end later than its job, which does not wait for it.
        """
        self.queue.close()
        try:
            async with asyncio.timeout(seconds):
                for job in self.jobs.open():
                    await job.wait()
        except TimeoutError:
            for job in self.jobs.open():
                if self.queue.remove(job):
                    end_early(job, self.queue)
                job.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_STEP_SECONDS):
                    for job in self.jobs.open():
                        await job.wait()
            for job in self.jobs.open():
                end_early(job, self.queue)

    def status(self) -> dict[str, Any]:
        """Describe what the server does now."""
        running = self.engine.current
        return {
            "running": running.id if running else None,
            "queue": {"waiting": len(self.queue), "limit": self.limits.queue},
            "ready": self.engine.is_ready,
            "draining": self.queue.is_closed,
        }
