"""The engine: one thread that owns all models and draws one picture after another.

torch is imported in it, so that the server listens at once. It never touches the event loop but by `Job.post`.
"""

import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sana_cli.errors import Cancelled, ExitCode, SanaError, explained
from sana_cli.images.formats import SUFFIXES
from sana_cli.server.fair_queue import FairQueue
from sana_cli.server.jobs import Finished, Job
from sana_cli.server.limits import Limits
from sana_cli.server.metrics import Metrics
from sana_cli.server.picture_store import PictureStore

if TYPE_CHECKING:
    from PIL.Image import Image

    from sana_cli.pipeline.pipeline import SanaPipeline
    from sana_cli.pipeline.results import GenerationResult
    from sana_cli.pipeline.safety import SafetyCheck
    from sana_cli.server.model_pool import ModelPool

_log = logging.getLogger("sana.serve")


class Engine:
    """Draws what waits in a queue, until that is closed."""

    def __init__(
        self, queue: FairQueue, store: PictureStore, *, limits: Limits, metrics: Metrics,
        max_memory: int | None, keep_alive: float | None, safety: "SafetyCheck | None" = None,
    ) -> None:  # fmt: skip
        self._queue, self._store, self._limits, self._metrics = queue, store, limits, metrics
        self.max_memory, self._keep_alive, self._safety = max_memory, keep_alive, safety
        self._pool: ModelPool | None = None
        # A process that ends does not wait for it: `join` does, as long as a stage may take.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.current: Job | None = None
        self.problem: SanaError | None = None  # why nothing can be drawn
        self.seconds = 1.0  # of a picture, lately
        self.moved: Callable[[], None] = lambda: None  # called when the queue has moved

    def start(self) -> None:
        self._thread.start()

    @property
    def checks_prompts(self) -> bool:
        """Check whether `--safety` is on."""
        return self._safety is not None

    @property
    def is_ready(self) -> bool:
        """Check whether torch is imported."""
        return self._pool is not None

    def join(self, timeout: float) -> bool:
        """Wait for the end of what runs, after the queue was closed. False if it takes longer."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def status(self) -> dict[str, Any]:
        """The models in memory; nothing before torch is there."""
        return self._pool.status() if self._pool else {"loaded": [], "evictions": 0}

    # -- the thread --

    def _run(self) -> None:
        try:
            from sana_cli.server.model_pool import ModelPool
            from sana_cli.system.collector import freeze_imports

            pool = ModelPool(max_memory=self.max_memory, keep_alive=self._keep_alive)
            freeze_imports()
        except Exception as error:  # noqa: BLE001  requests get the error
            self.problem = explained(error) or SanaError(f"nothing can be drawn: {error}")
            _log.exception("the engine cannot start")
            return
        self._pool = pool
        while True:
            job = self._queue.take(lambda job: pool.is_warm(job.work), pool.next_expiry())
            if job is not None:
                self._next_picture(pool, job)
            elif self._queue.is_closed:
                break
            else:
                pool.evict_idle()
        pool.close()

    def _next_picture(self, pool: "ModelPool", job: Job) -> None:
        """Draw one picture of a job, whose end is posted with its last one."""
        if job.is_stopped:
            end_early(job, self._queue)
            return
        self.current = job
        started = time.perf_counter()
        if job.next_picture == 0:
            self._metrics.waited(time.time() - job.created)
        job.post("started")
        self.moved()
        try:
            finished = self._drawn(pool, job)
        except Cancelled:
            if time.perf_counter() - started > self._limits.picture_seconds:
                self._end(job, "failed", _too_slow())
            else:
                self._metrics.ended("cancelled")
                end_early(job, self._queue)
        except SanaError as error:
            self._end(job, "failed", error)
        except Exception as error:  # noqa: BLE001  one picture's bug ends no server
            _log.exception("job %s ended in a bug", job.id)
            self._end(job, "failed", explained(error) or SanaError("a bug ended this picture"))
        else:
            self.seconds = 0.8 * self.seconds + 0.2 * (time.perf_counter() - started)
            self._metrics.drew(job.work.checkpoint.name, finished.facts["seconds"])
            job.post("picture", picture=finished)
            job.next_picture += 1
            if job.next_picture == len(job.work.pictures):
                job.post("done")
            else:
                self._queue.put_back(job)
        finally:
            self.current = None

    def _end(self, job: Job, how: str, error: SanaError) -> None:
        self._metrics.ended(how)
        error.message, error.hint = (
            self._store.hidden(error.message),
            self._store.hidden(error.hint),
        )
        job.post(how, error=error)

    def _drawn(self, pool: "ModelPool", job: Job) -> Finished:
        from sana_cli.pipeline.watching import Watching

        number = job.next_picture
        params = job.work.pictures[number]
        reporter = JobReporter(job, hidden=self._store.hidden)
        pipeline = pool.pipeline_for(job.work)
        pipeline.report_to(reporter)
        if self._safety is not None and number == 0:
            self._require_safe(pipeline, job, reporter)
        pipeline.watching = (
            Watching(show=lambda *seen: _post_preview(job, *seen), every=job.preview_every)
            if job.previews
            else None
        )
        deadline = time.perf_counter() + self._limits.picture_seconds

        def on_step(step: int, steps: int) -> bool:
            job.post("step", picture=number, step=step, steps=steps)
            return not job.is_stopped and time.perf_counter() < deadline

        suffix, quality = job.work.options.format or "png", job.work.options.quality
        if job.keep:
            path, result = self._store.draw(pipeline, params, on_step, suffix, quality)
            return Finished(index=number, suffix=suffix, facts=_facts(pipeline, result), path=path)
        drawn = pipeline(params, on_step=on_step)
        with pipeline.components.stopwatch.timed("save"), reporter.stage("save"):
            content, carried = drawn.encoded(SUFFIXES[f".{suffix}"], quality)
        seconds = {k: round(v, 4) for k, v in pipeline.components.stopwatch.seconds.items()}
        facts = _facts(pipeline, drawn) | {"seconds": seconds, "settings": carried}
        return Finished(index=number, suffix=suffix, facts=facts, content=content)

    def _require_safe(self, pipeline: "SanaPipeline", job: Job, reporter: "JobReporter") -> None:
        assert self._safety is not None
        components = pipeline.components
        pipeline.drawing.prepare(job.work.pictures[0])
        refused = self._safety.refusals(
            [job.work.pictures[0].prompt], device=components.device,
            max_memory=components.runtime.max_memory, spare=components.planning.spare,
            reporter=reporter,
        )  # fmt: skip
        for error in refused.values():
            raise error


def end_early(job: Job, queue: FairQueue) -> None:
    """Post the end of a job that was stopped: by its client, or since the server ends."""
    if queue.is_closed:
        job.post("failed", error=_server_ended(), server_ended=True)
    else:
        job.post("cancelled")


class JobReporter:
    """Posts stages and notices of a picture to its job."""

    def __init__(self, job: Job, *, hidden: Callable[[str], str]) -> None:
        """`hidden` removes places on the disk from a text."""
        self._job, self._hidden = job, hidden

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        self._job.post("stage", title=title, total=total)
        yield lambda: self._job.post("advance", title=title)
        self._job.post("stage_done", title=title)

    def notice(self, message: str) -> None:
        message = self._hidden(message)
        if message not in self._job.told:
            self._job.told.add(message)
            self._job.post("notice", message=message)


def _post_preview(job: Job, image: "Image", step: int, steps: int) -> None:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    job.post("preview", picture=job.next_picture, step=step, steps=steps, png=file.getvalue())


def _facts(pipeline: "SanaPipeline", result: "GenerationResult") -> dict[str, Any]:
    components = pipeline.components
    return {
        **result.facts(),
        "model": pipeline.checkpoint.name,
        "revision": pipeline.checkpoint.revision,
        "device": str(components.device),
        "precision": str(components.dtypes),
        "kernels": components.kernels,
    }


def _too_slow() -> SanaError:
    return SanaError(
        "the picture took longer than this server allows",
        hint="ask for fewer steps or a smaller size",
        code=ExitCode.ENVIRONMENT,
    )


def _server_ended() -> SanaError:
    """Build the error of a picture that the end of the server ended."""
    return SanaError(
        "the server ended before this picture was drawn",
        hint="send the request again",
        code=ExitCode.ENVIRONMENT,
    )
