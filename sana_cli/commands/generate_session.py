"""What `sana generate` does with its wishes: one picture or many, new or once more."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sana_cli import __version__
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.digest import model_digest
from sana_cli.checkpoints.lora_file import parse_lora
from sana_cli.checkpoints.model_names import kept_folder
from sana_cli.checkpoints.obtaining import Access
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.user_settings import BUILTIN, preferences
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.files import local_path, make_folder
from sana_cli.pipeline.safety import SafetyCheck
from sana_cli.request.foreign_syntax import tell_foreign_syntax
from sana_cli.request.options import FILES, Wishes
from sana_cli.request.output_paths import check
from sana_cli.request.params import Request, resolve
from sana_cli.system.precision import Device, foresee_device, pick_device, plan_dtypes, slowness
from sana_cli.terminal.confirm import approval
from sana_cli.text import slug

if TYPE_CHECKING:
    import torch

    from sana_cli.images.contact_sheet import Cell, ContactSheet
    from sana_cli.pipeline.batch import Batch
    from sana_cli.pipeline.finishing import Picture as Finished
    from sana_cli.pipeline.latent_preview import Watching
    from sana_cli.pipeline.run import Run
    from sana_cli.terminal.batch_report import BatchReport
    from sana_cli.terminal.progress_bars import ConsoleReporter


_Device = TypeVar("_Device", bound=Device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One to draw again: what its file says."""

    name: str
    settings: dict[str, Any]
    wishes: Wishes

    @classmethod
    def of(cls, name: str) -> Self:
        """Read it; SanaError for a file that is none of ours."""
        from sana_cli.images.png import SHEET_KEY, read_settings

        path = local_path(name)
        if not path.is_file():
            raise SanaError(f"no such picture: {name}", hint="check the path", code=ExitCode.USAGE)
        settings = read_settings(path)
        if SHEET_KEY in settings:
            raise SanaError(
                f"{name} is a sheet of several pictures",
                hint="repeat one of them; `sana info` lists what it shows",
                code=ExitCode.USAGE,
            )
        return cls(name=name, settings=settings, wishes=Wishes.of_picture(settings, name))

    def changed_by(self, typed: Wishes) -> Wishes:
        """What was typed, and for the rest what repeats the picture. SanaError where files are not as they were."""
        left: dict[str, Any] = dict.fromkeys(self._left_away(typed))
        return self._with_files(typed.over(replace(self.wishes, **left)))

    def _left_away(self, typed: Wishes) -> list[str]:
        """A mask does not fit another original than its own, nor does the strength that goes with it."""
        if typed.image is None or self.wishes.mask is None:
            return []
        path = local_path(typed.image)
        if path.is_file() and _sha256(path) == self.settings.get("image_digest"):
            return []
        return [key for key in ("mask", "strength") if getattr(typed, key) is None]

    def _with_files(self, wishes: Wishes) -> Wishes:
        """Files that the picture was made from are sought where it says, then beside it."""
        found: dict[str, Any] = {}
        for kind in FILES:
            name = getattr(wishes, kind)
            if name is not None and wishes.sources.get(kind) == self.name:
                digest = self.settings.get(f"{kind}_digest")
                found[kind] = str(_same_file(name, digest, f"--{kind}", self.name))
        if wishes.loras and wishes.sources.get("loras") == self.name:
            digests = self.settings.get("lora_digests")
            if not isinstance(digests, list) or len(digests) != len(wishes.loras):
                digests = [None] * len(wishes.loras)
            found["loras"] = tuple(
                f"{_same_file(path, digest, '--lora', self.name)}:{scale!r}"
                for (path, scale), digest in zip(
                    map(parse_lora, wishes.loras), digests, strict=True
                )
            )
        return replace(wishes, **found)

    def tell_differences(
        self, typed: Wishes, checkpoint: Checkpoint, reporter: "ConsoleReporter"
    ) -> None:
        """Say what may keep the new picture from being the same."""
        if left := self._left_away(typed):
            reporter.notice(
                f"{self.name} was made from another picture than {typed.image}: drawn without its "
                + " and ".join(left)
            )
        now = {
            "model": checkpoint.name,
            "revision": checkpoint.revision or "",
            "flow_shift": checkpoint.defaults.flow_shift,
            "version": __version__,
        }
        for key, value in now.items():
            before = self.settings.get(key, value)
            if before != value:
                reporter.notice(
                    f"{self.name} was drawn with {key} {before or 'unknown'}, this is {value or 'unknown'}; "
                    "the pictures may differ"
                )
        if self.settings.get("model") == checkpoint.name:
            tell_another_model(self.settings, checkpoint, self.name, reporter)


def tell_another_model(
    settings: dict[str, Any], checkpoint: Checkpoint, picture: str, reporter: "ConsoleReporter"
) -> None:
    """Say so if the model that has the name of the picture's is another one."""
    digest = model_digest(checkpoint)
    if digest and settings.get("model_digest", digest) != digest:
        reporter.notice(
            f"{picture} was drawn by another model of the name {checkpoint.name}: its files are not those that "
            "are here; the pictures will differ"
        )


def _sha256(path: Path) -> str:
    from quant.manifest import sha256_of

    return sha256_of(path)


def _same_file(name: str, digest: object, option: str, picture: str) -> Path:
    hint = f"put it there, or name another one: {option} FILE"
    asked = local_path(name)
    places = [p for p in (asked, local_path(picture).parent / asked.name) if p.is_file()]
    if not places:
        raise usage_error(f"{picture} was made from {name}, which is not there", hint)
    same = [path for path in places if _sha256(path) == digest]
    if not same:
        raise usage_error(f"{picture} was made from {name}, which has changed since", hint)
    return same[0]


def open_model(
    wishes: Wishes,
    picture: Picture | None,
    *,
    offline: bool,
    yes: bool,
    reporter: "ConsoleReporter",
    planning: bool = False,
) -> Checkpoint:
    """The model that is wished for; errors say who named it when nobody typed it.

    `yes` answers the question before a large download; `planning` as for `open_checkpoint`.
    """
    repeated = picture is not None and wishes.sources.get("model") == picture.name
    name = wishes.model_or_builtin
    if repeated:
        name = _place_of(name)
    try:
        with wishes.naming_source_of("model"):
            access = Access(
                offline=offline,
                progress=reporter.download,
                approve=approval(reporter, yes=yes),
                planning=planning,
                named_by=picture.name if picture is not None and repeated else "",
            )
            checkpoint = open_checkpoint(name, access)
    except SanaError as error:
        if repeated and error.code == ExitCode.USAGE:
            error.hint = "pictures store a model's name, not its place: give --model FOLDER"
        elif error.code == ExitCode.ENVIRONMENT and "model" in wishes.sources and name != BUILTIN:
            error.hint += "; or use the demo model: --model builtin"
        raise
    return checkpoint


def _place_of(name: str) -> str:
    """A folder by its last name, if it is the default model; else the name itself."""
    default = preferences().model
    if default and kept_folder(name) is None and Path(default).name == name:
        return default
    return name


class Order:
    """What one call of `sana generate` is to draw. `run` and `refusal` are for its report."""

    def __init__(
        self, *, wishes: Wishes, checkpoint: Checkpoint, count: int, overwrite: bool,
        reporter: "ConsoleReporter", safety: SafetyCheck | None = None, grid: bool = False,
        watching: "Watching | None" = None,
    ) -> None:  # fmt: skip
        self.wishes, self.checkpoint, self.reporter = wishes, checkpoint, reporter
        self.safety, self.watching = safety, watching
        self.count, self.overwrite, self.grid = count, overwrite, grid
        self.run: Run | None = None
        self.refusal: SanaError | None = None  # of prompts of a batch, whose others are drawn
        self._batch: Batch | None = None
        self._sheet: ContactSheet | None = None
        self._told_syntax = False

    def _checked(self, *, is_drawn: bool = True) -> Request:
        """What is to be drawn of one prompt. Mistakes are told before the seconds that torch takes."""
        request = self.wishes.request(self.checkpoint, count=self.count, overwrite=self.overwrite)
        with self.wishes.naming_source_of("output"), self.wishes.naming_settings():
            check(request, self.checkpoint)
            if is_drawn:
                self._make_folder(request)
            self._plan_sheet(self.count, slug(request.prompt))
        self._tell_syntax(request.prompt)
        return request

    def _make_folder(self, request: Request) -> None:
        """The one that pictures go to, where it was written as a folder and is not there."""
        if request.output is not None and request.output_is_folder:
            make_folder(request.output)

    def single(self, picture: Picture | None) -> Iterator["Finished"]:
        """The pictures of one prompt."""
        request = self._checked()
        device = self._device(request, picture, pick_device)
        self._require_safe(request, device)
        self.run = self._started(request, device)
        if picture is not None:
            self._tell_other_rounding(picture, self.run.rounding)
        yield from self.run.pictures()

    def print_forecast(self, picture: Picture | None, *, json: bool) -> None:
        """Tell what `single` would take; errors are those that it would end in before it draws."""
        from sana_cli.commands.dry_run import print_forecast

        request = self._checked(is_drawn=False)
        device = self._device(request, picture, foresee_device)
        print_forecast(self.checkpoint, request, device, json=json)

    def _tell_other_rounding(self, picture: Picture, now: dict[str, str]) -> None:
        before = {
            key: picture.settings[key] for key in ("branches", "decode") if key in picture.settings
        }
        if now != before:
            self.reporter.notice(
                f"{picture.name} was drawn under another plan of memory, which rounds in another way: "
                "pixels may differ by 1 of 255"
            )

    def next(self, wishes: Wishes) -> Iterator["Finished"]:
        """The pictures of one more prompt, of which others follow: what is loaded stays."""
        request = wishes.request(self.checkpoint, count=self.count, overwrite=self.overwrite)
        check(request, self.checkpoint)
        self._make_folder(request)
        self._tell_syntax(request.prompt)
        device = self._device(request, None, pick_device)
        if self.run is None:
            self.run = self._started(request, device, warm=True)
        else:
            self.run.turn_to(request)
            self.run.watching = self.watching
        self._require_safe(request, device, spare=self.run.spare)
        yield from self.run.pictures()

    def batch(self, prompts: str, report: "BatchReport") -> Iterator["Finished"]:
        """The pictures of a file of prompts that are not there yet."""
        from sana_cli.pipeline.batch import draw_batch

        batch = self._planned(prompts)
        report.planned(batch)
        with self.wishes.naming_source_of("output"):
            if batch.new_folder:
                make_folder(batch.new_folder)
            name = "prompts" if prompts == "-" else slug(Path(prompts).stem)
            self._plan_sheet(len(batch.jobs), name)
        self._batch = batch
        pending = batch.pending
        if not pending:
            return
        first = pending[0].request
        device = self._device(first, None, pick_device)
        refused = self._refused([job.request for job in pending], device)
        for job in pending:
            if job.request.prompt in refused:
                report.refused(job, refused[job.request.prompt])
        self._batch = batch = batch.without(refused)
        if refused:
            self.refusal = next(iter(refused.values()))
            if len(refused) > 1:
                one = self.refusal.message
                self.refusal.message = f"{len(refused)} prompts are refused; first, {one}"
        if batch.pending:
            self.run = self._started(batch.pending[0].request, device)
            yield from draw_batch(
                self.run, batch, self.checkpoint,
                advance=lambda done, total: self.reporter.count("pictures", done, total),
            )  # fmt: skip

    def _planned(self, prompts: str) -> "Batch":
        """All pictures of a file of prompts. Every line is checked before any is drawn."""
        from sana_cli.pipeline.batch import plan_batch
        from sana_cli.request.prompt_file import read_prompt_file

        found = read_prompt_file(prompts)
        for message in found.notices:
            self.reporter.notice(message)
        with self.wishes.naming_source_of("output"):
            batch = plan_batch(
                found, self.wishes, self.checkpoint, count=self.count, overwrite=self.overwrite
            )
        self._tell_syntax(*(job.request.prompt for job in batch.jobs))
        return batch

    def print_batch_forecast(self, prompts: str, *, json: bool) -> None:
        """Count the pictures of a file of prompts, and tell what the largest takes."""
        from sana_cli.commands.dry_run import print_batch_forecast

        batch = self._planned(prompts)
        first = batch.jobs[0].request
        device = self._device(first, None, foresee_device)
        print_batch_forecast(self.checkpoint, batch, device, json=json)

    def _tell_syntax(self, *prompts: str) -> None:
        """Say once that what other programs read as instructions is words here."""
        if not self._told_syntax and (message := tell_foreign_syntax(prompts)):
            self._told_syntax = True
            self.reporter.notice(message)

    def _plan_sheet(self, pictures: int, name: str) -> None:
        if self.grid and pictures < 2:
            self.reporter.notice("--grid has no effect on a single picture")
        elif self.grid:
            from sana_cli.images.contact_sheet import ContactSheet

            target = local_path(self.wishes.output) if self.wishes.output else None
            is_folder = (self.wishes.output or "").endswith(("/", os.sep))
            self._sheet = ContactSheet(
                target, name=name, overwrite=self.overwrite, is_folder=is_folder
            )

    def save_sheet(self, drawn: "Sequence[Finished]") -> Path | None:
        """The sheet of `--grid` with all pictures, those that were there before too; None where there is none."""
        cells = self._cells(drawn) if self._sheet else []
        if self._sheet is None or len(cells) < 2:  # others are refused
            return None
        settings = {"model": self.checkpoint.name, "version": __version__}
        return self._sheet.save(cells, settings=settings, notice=self.reporter.notice)

    def _cells(self, drawn: "Sequence[Finished]") -> "list[Cell]":
        from sana_cli.images.contact_sheet import Cell

        if self._batch is None:
            return [
                Cell(
                    path=picture.path,
                    prompt=picture.settings["prompt"],
                    seed=picture.seed,
                    size=(picture.width, picture.height),
                )
                for picture in drawn
            ]
        cells = []
        for job in self._batch.jobs:
            settings = resolve(job.request, self.checkpoint)
            cells.append(
                Cell(
                    path=job.path,
                    prompt=job.request.prompt,
                    seed=job.named.seed,
                    size=(settings.width, settings.height),
                )
            )
        return cells

    def _require_safe(
        self, request: Request, device: "torch.device", *, spare: int | None = 0
    ) -> None:
        """SanaError for a prompt that the safety check refuses."""
        for error in self._refused([request], device, spare=spare).values():
            raise error

    def _refused(
        self, requests: Sequence[Request], device: "torch.device", *, spare: int | None = 0
    ) -> dict[str, SanaError]:
        """Why prompts are refused, by prompt. The check stays for the next ones if it fits into `spare` bytes."""
        if self.safety is None:
            return {}
        return self.safety.refusals(
            [request.prompt for request in requests],
            device=device,
            max_memory=requests[0].max_memory,
            spare=spare,
            reporter=self.reporter,
        )

    def _started(self, request: Request, device: "torch.device", *, warm: bool = False) -> "Run":
        from sana_cli.pipeline.run import Run

        run = Run(
            self.checkpoint,
            request,
            device=device,
            reporter=self.reporter,
            warm=warm,
            watching=self.watching,
        )
        if self.wishes.model is None:
            self.reporter.notice(
                "this is the 19 MB demo model; for real pictures: --model sana-0.6b (7.7 GB download)"
            )
        return run

    def _device(
        self, request: Request, picture: Picture | None, pick: Callable[[str], _Device]
    ) -> _Device:
        """The one that is wished for, found by `pick`; another, where only a repeated picture wishes for it.

        SanaError where it is not here, or the model cannot be drawn there in the precision of the request.
        """
        if pick is pick_device:
            self.reporter.load_torch()
        wanted, trained = self.wishes.device or "auto", self.checkpoint.trained_precision
        with self.wishes.naming_source_of("device"):
            try:
                device = pick(wanted)
            except SanaError:
                if picture is None or self.wishes.sources.get("device") != picture.name:
                    raise
                self.reporter.notice(
                    f"{picture.name} was drawn on {wanted}, which is not here; it may differ"
                )
                device = pick("auto")
        with self.wishes.naming_source_of("precision"):
            plan_dtypes(request.precision, trained, device)
        if self.run is None and (slow := slowness(request.precision, device)):
            self.reporter.notice(slow)
        return device
