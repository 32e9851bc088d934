"""Draw the pictures of `sana generate` and `sana repl`: one or many, new or repeated."""

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.digest import digests_ahead
from sana_cli.commands.grid import Grid
from sana_cli.commands.remote_session import DEMO_NOTICE
from sana_cli.commands.repeat import Picture
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import SanaError
from sana_cli.pipeline.safety import SafetyCheck
from sana_cli.request.foreign_syntax import tell_foreign_syntax
from sana_cli.request.output_paths import planned, tell_quality
from sana_cli.request.params import GenerationParams, resolve_all
from sana_cli.request.runtime import RuntimeOptions, runtime_of
from sana_cli.system.precision import Device, foresee_device, pick_device, plan_dtypes, slowness
from sana_cli.text import slug

if TYPE_CHECKING:
    import torch

    from sana_cli.pipeline.batch import Batch
    from sana_cli.pipeline.components import Components
    from sana_cli.pipeline.pipeline import SanaPipeline
    from sana_cli.pipeline.planning import Expects
    from sana_cli.pipeline.results import SavedResult
    from sana_cli.pipeline.watching import Watching
    from sana_cli.remote.artist import Artist
    from sana_cli.remote.picture import RemoteComponents, RemotePicture
    from sana_cli.terminal.batch_report import BatchReport
    from sana_cli.terminal.progress_bars import ConsoleReporter

_Device = TypeVar("_Device", bound=Device)
_log = logging.getLogger("sana.run")
Pictures = list[tuple[GenerationParams, Path]]


class GenerateSession:
    """Draws pictures with one model by the options. `components` and `refusal` are for the report of a command."""

    def __init__(
        self, *, options: GenerationOptions, checkpoint: Checkpoint, overwrite: bool,
        reporter: "ConsoleReporter", safety: SafetyCheck | None = None, grid: bool = False,
        watching: "Watching | None" = None, artist: "Artist | None" = None,
        given: Sequence[tuple[int, Path]] = (),
    ) -> None:  # fmt: skip
        """Raises SanaError for options that do not fit the model.

        `artist` draws with a server as long as that answers; `given` are seeds and files that are chosen already.
        """
        self.options, self.checkpoint, self.reporter = options, checkpoint, reporter
        self.runtime = runtime_of(options, checkpoint)
        self.safety, self.watching, self.overwrite = safety, watching, overwrite
        self.refusal: SanaError | None = None  # of prompts of a batch, whose others are drawn
        self.grid = Grid(options, overwrite=overwrite, reporter=reporter) if grid else None
        self._pipeline: SanaPipeline | None = None
        self.artist, self._given, self._told_syntax = artist, list(given), False
        if artist is not None and options.model is None:
            artist.greetings.append(DEMO_NOTICE)

    @property
    def components(self) -> "Components | RemoteComponents | None":
        """The parts of the pipeline; None before the first picture."""
        remote = self.artist.last if self.artist is not None else None
        drew = self._pipeline or remote
        return drew.components if drew else None

    # -- one prompt --

    def single(self, picture: Picture | None) -> Iterator["SavedResult | RemotePicture"]:
        """Draw the pictures of one prompt; `picture` is the one to repeat."""
        pictures = yield from self._remotely(self._checked(), self.options, picture)
        if not pictures:
            return
        device = self.find_device(picture, pick_device)
        self._require_safe(pictures, device)
        pipeline = self._opened(device, expects="one" if len(pictures) == 1 else "several")
        pipeline.drawing.prepare(pictures[0][0])
        if picture is not None:
            picture.tell_other_rounding(pipeline.drawing.rounding, self.reporter)
        yield from _drawn(pipeline, pictures, self.options, overwrite=self.overwrite)

    def next(self, options: GenerationOptions) -> Iterator["SavedResult | RemotePicture"]:
        """Draw the pictures of another prompt; parts stay loaded for the prompts that follow."""
        pictures = planned(options, self.checkpoint, overwrite=self.overwrite)
        self.tell_syntax((pictures[0][0].prompt, options))
        pictures = yield from self._remotely(pictures, options, None)
        if not pictures:
            return
        device = self.find_device(None, pick_device)
        pipeline = self._pipeline or self._opened(device, expects="more")
        pipeline.watching = self.watching
        pipeline.drawing.prepare(pictures[0][0])
        self._require_safe(pictures, device, spare=pipeline.components.planning.spare)
        yield from _drawn(pipeline, pictures, options, overwrite=self.overwrite)

    def print_forecast(self, picture: Picture | None, *, json: bool) -> None:
        """Show what `single` would take; errors are those that it would end in before it draws."""
        from sana_cli.commands.dry_run import print_forecast

        pictures = self._checked()
        device = self.find_device(picture, foresee_device)
        print_forecast(
            self.checkpoint, pictures[0][0], self.runtime, device,
            count=len(pictures), cap_source=self.cap_source, json=json,
        )  # fmt: skip

    def _checked(self) -> Pictures:
        """Check the pictures of one prompt, so that errors appear before torch is imported, which takes seconds."""
        with self.options.naming_source_of("output"), self.options.naming_settings():
            pictures = left_over(self._given, self.options, self.checkpoint) or planned(
                self.options, self.checkpoint, overwrite=self.overwrite
            )
            if self.grid:
                self.grid.plan(len(pictures), slug(pictures[0][0].prompt))
        tell_quality(self.options, [path for _, path in pictures], self.reporter)
        self.tell_syntax((pictures[0][0].prompt, self.options))
        return pictures

    def _remotely(
        self, pictures: Pictures, options: GenerationOptions, picture: Picture | None
    ) -> Generator["RemotePicture", None, Pictures]:
        """Draw with the server, if one is to draw; return the pictures that are left."""
        if self.artist is None:
            return pictures
        from sana_cli.remote.artist import Unavailable

        self.artist.watching = self.watching
        left = list(pictures)
        options = replace(options, seed=pictures[0][0].seed, count=len(pictures))
        try:
            paths = [path for _, path in pictures]
            for drawn in self.artist.draw(options, paths, overwrite=self.overwrite):
                if picture is not None and len(left) == len(pictures):
                    keys = ("branches", "decode")
                    rounding = {k: drawn.settings[k] for k in keys if k in drawn.settings}
                    picture.tell_other_rounding(rounding, self.reporter)
                left.pop(0)
                yield drawn
        except Unavailable as error:
            self.artist.hand_over(error)
            self.artist = None
        return left

    def batch(
        self, prompts: "str | Batch", report: "BatchReport"
    ) -> Iterator["SavedResult | RemotePicture"]:
        """Draw the pictures of a file of prompts, or planned ones, except finished ones."""
        from sana_cli.commands.generate_batch import BatchDrawing

        yield from BatchDrawing(self, report).drawn(prompts)

    def close(self) -> None:
        """Give back the memory of a session that draws no more."""
        if self._pipeline:
            self._pipeline.close()

    # -- what both need --

    def tell_syntax(self, *said: tuple[str, GenerationOptions]) -> None:
        """Say once that what other programs read as instructions in the prompts is words here."""
        plain = {prompt for prompt, options in said if options.wildcards is False}
        prompts = [prompt for prompt, _ in said]
        if not self._told_syntax and (message := tell_foreign_syntax(prompts, plain)):
            self._told_syntax = True
            self.reporter.notice(message)

    def _require_safe(
        self, pictures: Pictures, device: "torch.device", *, spare: int | None = 0
    ) -> None:
        """SanaError for a prompt that the safety check refuses."""
        for error in self.refused([pictures[0][0].prompt], device, spare=spare).values():
            raise error

    def refused(
        self, prompts: Sequence[str], device: "torch.device", *, spare: int | None = 0
    ) -> dict[str, SanaError]:
        """Map each refused prompt to the reason. The check stays in memory if it fits into `spare` bytes."""
        if self.safety is None:
            return {}
        return self.safety.refusals(
            prompts, device=device, max_memory=self.runtime.max_memory, spare=spare,
            reporter=self.reporter,
        )  # fmt: skip

    @property
    def cap_source(self) -> str:
        """Return where the memory cap is set, if nobody typed it."""
        return self.options.sources.get("max_memory", "")

    def several(self) -> "SanaPipeline":
        """The pipeline of this machine for several pictures, opened when the first of them needs it."""
        return self._pipeline or self._opened(
            self.find_device(None, pick_device), expects="several"
        )

    def _opened(self, device: "torch.device", *, expects: "Expects") -> "SanaPipeline":
        pipeline = open_pipeline(
            self.checkpoint, self.runtime, device,
            reporter=self.reporter, expects=expects, cap_source=self.cap_source,
        )  # fmt: skip
        self._pipeline, pipeline.watching = pipeline, self.watching
        if self.options.model is None:
            self.reporter.notice(DEMO_NOTICE)
        return pipeline

    def find_device(self, picture: Picture | None, pick: Callable[[str], _Device]) -> _Device:
        """The one that is asked for, found by `pick`; another, where only a repeated picture asks for it.

        SanaError where it is not here, or the model cannot be drawn there in the precision of the runtime.
        """
        if pick is pick_device:
            if self._pipeline is None:
                digests_ahead(self.checkpoint)
            self.reporter.load_torch()
        wanted, precision = self.runtime.device, self.runtime.precision
        with self.options.naming_source_of("device"):
            try:
                device = pick(wanted)
            except SanaError:
                if picture is None or self.options.sources.get("device") != picture.name:
                    raise
                self.reporter.notice(
                    f"{picture.name} was drawn on {wanted}, which is not here; it may differ"
                )
                device = pick("auto")
        with self.options.naming_source_of("precision"):
            plan_dtypes(precision, self.checkpoint.trained_precision, device)
        if self._pipeline is None and (slow := slowness(precision, device)):
            self.reporter.notice(slow)
        return device


def left_over(
    given: Sequence[tuple[int, Path]], options: GenerationOptions, checkpoint: Checkpoint
) -> Pictures:
    """The pictures that a server has left, by their seeds, in the files that were chosen for them."""
    if not given:
        return []
    options = replace(options, seed=given[0][0], count=len(given))
    paths = [path for _, path in given]
    return list(zip(resolve_all(options, checkpoint), paths, strict=True))


def open_pipeline(
    checkpoint: Checkpoint,
    runtime: RuntimeOptions,
    device: "torch.device",
    *,
    reporter: "ConsoleReporter",
    expects: "Expects",
    cap_source: str = "",
) -> "SanaPipeline":
    """A pipeline for a process of our own, whose garbage collector may pass over what libraries made."""
    from sana_cli.pipeline.pipeline import SanaPipeline
    from sana_cli.system import cpu
    from sana_cli.system.collector import freeze_imports

    freeze_imports()
    if device.type == "cpu" and (crowded := cpu.crowded()):
        _log.info("%s; %s", crowded, cpu.remedy())
    return SanaPipeline(
        checkpoint,
        runtime,
        device=device,
        reporter=reporter,
        expects=expects,
        cap_source=cap_source,
    )


def _drawn(
    pipeline: "SanaPipeline", pictures: Pictures, options: GenerationOptions, *, overwrite: bool
) -> Iterator["SavedResult"]:
    from sana_cli.pipeline.saving import draw_to_file

    for params, path in pictures:
        yield draw_to_file(pipeline, params, path, overwrite=overwrite, quality=options.quality)
