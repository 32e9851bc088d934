"""`sana quantize`: a model becomes a small folder of plain safetensors."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sana_cli.config.decoders import FULL
from sana_cli.config.recipes import KEPT_HALF, RECIPES, component_recipe, schemes_for
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.terminal.completion import complete_model, complete_recipe
from sana_cli.terminal.confirm import approval
from sana_cli.terminal.options import (
    DeviceOption,
    JsonOption,
    LoraOption,
    OfflineOption,
    QuietOption,
    YesOption,
)
from sana_cli.text import print_json, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calibration.calibrator import Calibrator
    from sana_cli.checkpoints.checkpoint import Checkpoint
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.progress import Reporter
    from sana_cli.quantize_checkpoint import ComponentReport
    from sana_cli.terminal.progress_bars import ConsoleReporter

DEFAULT_SAMPLES = 32  # 8 overfit GPTQ, 64 gain little: docs/quantization.md
MAX_SAMPLES = 10_000
MAX_SEED = 2**32 - 1


def _suiting(component: str) -> str:
    return f"{', '.join(schemes_for(component))} or none"


def _scheme_option(component: str, more: str = "") -> Any:
    help = f"{_suiting(component)} [default: the recipe's{more}]"
    return typer.Option(metavar="SCHEME", help=help)


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A known name, hub id or folder.",
            autocompletion=complete_model,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OUT]",
            help="The folder to create [default: one among sana's models, named MODEL-RECIPE]",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="|".join(RECIPES),
            help="Schemes for all parts at once.",
            autocompletion=complete_recipe,
        ),
    ] = "w8a8",
    transformer: Annotated[str | None, _scheme_option("transformer")] = None,
    vae: Annotated[
        str | None,
        _scheme_option("vae", ", or 8-bit inputs where they are faster and pictures allow it"),
    ] = None,
    text_encoder: Annotated[str | None, _scheme_option("text_encoder")] = None,
    calibration_prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Calibration prompts, one per line [default: built-in list]"
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(metavar="N", help="Pictures to calibrate with; 0: quantize without data."),
    ] = DEFAULT_SAMPLES,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Denoising steps per calibration picture [default: the model's]"
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Keep the K most sensitive layers of the transformer in higher precision.",
        ),
    ] = None,
    budget_db: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Keep as many layers in higher precision as a predicted SQNR of X dB needs.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Seed of the calibration pictures [default: 0]"),
    ] = None,
    lora: LoraOption = None,
    decoder: Annotated[
        str | None,
        typer.Option(
            metavar="full|lite|tiny|DIR",
            help="Decoder of the folder: lite takes the place of the model's own, tiny is added unquantized [default: full]",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    offline: OfflineOption = None,
    yes: YesOption = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a quantized folder.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = None,
) -> None:
    """Make a smaller, quantized copy of MODEL.

    Calibrates on generated pictures; --samples 0 needs no data and holds one layer in memory.
    If interrupted, run it again: finished parts are reused.
    """
    from sana_cli.checkpoints.quantized_folder import check_target
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.config.user_settings import preferences
    from sana_cli.files import local_path

    chosen = preferences()
    offline = chosen.is_offline(offline)
    quiet = chosen.is_quiet(quiet)
    schemes = schemes_of(recipe, transformer=transformer, vae=vae, text_encoder=text_encoder)
    options = CalibrationWishes(
        prompts=calibration_prompts, samples=samples, steps=steps, keep=keep, budget_db=budget_db,
        seed=seed, any_decoder_scheme=vae is None,
        common=GenerationOptions(device=device).over(chosen.options),
    )  # fmt: skip
    options.check(recipe, schemes["transformer"])
    for what, given in (("LoRAs", lora), ("another decoder", decoder not in (None, FULL))):
        if given and not out:
            raise usage_error(
                f"a model with {what} needs an output folder", f"sana quantize {model} OUT"
            )
    target = local_path(str(out)) if out else kept_target(model, recipe, schemes)
    check_target(target, overwrite=force)
    from sana_cli.terminal.progress_bars import ConsoleReporter

    with ConsoleReporter(quiet=quiet) as reporter:
        if set(schemes.values()) == {"none"}:
            reporter.notice("every part is set to none: the folder will be as large as the model")
        if recipe in KEPT_HALF and (keep is not None or budget_db is not None):
            option = "--budget-db" if keep is None else f"--keep {keep}"
            reporter.notice(
                f"{option} replaces the rule of {recipe}, which keeps half of the layers"
            )
        reports, facts = quantize_model(
            model, target, recipe, schemes, options,
            offline=offline, yes=yes, overwrite=force, reporter=reporter, loras=lora or (),
            decoder=decoder,
        )  # fmt: skip
    from sana_cli.terminal.quantize_report import json_document, lines

    if json:
        print_json(json_document(target, recipe, reports, facts))
    else:
        say(*lines(target, reports, facts, name=str(target) if out else target.name))


def kept_target(model: str, recipe: str, schemes: dict[str, str]) -> Path:
    """Return the folder of a quantized model that is known by its name; raise SanaError if the name
    would mislead.
    """
    from sana_cli.config.places import models_folder
    from sana_cli.config.variants import find_variant
    from sana_cli.files import local_path

    if schemes != RECIPES[recipe]:
        raise usage_error("custom schemes need an output folder", f"sana quantize {model} OUT")
    variant = find_variant(model)
    path = local_path(model)
    base = path.resolve().name if path.exists() else variant.alias if variant else model
    folder = models_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SanaError(
            f"cannot make {folder}: {error.strerror}",
            hint="name an output folder: sana quantize MODEL OUT; or set SANA_MODELS=FOLDER",
            code=ExitCode.ENVIRONMENT,
        ) from error
    return folder / f"{base.replace('/', '--')}-{recipe}"


def quantize_model(
    model: str,
    target: Path,
    recipe: str,
    schemes: dict[str, str],
    options: "CalibrationWishes",
    *,
    offline: bool,
    yes: bool,
    overwrite: bool,
    reporter: "ConsoleReporter",
    loras: "Sequence[str]" = (),
    decoder: str | None = None,
) -> "tuple[list[ComponentReport], dict[str, Any] | None]":
    """Make the folder `target`, with LoRAs merged before and maybe another decoder; returns what became of each part, and what calibration found."""
    from sana_cli.checkpoints.lora_file import open_loras
    from sana_cli.checkpoints.obtain_decoder import obtain_decoder
    from sana_cli.checkpoints.obtaining import Access
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.request.options import lora_paths

    opened = open_loras(lora_paths(loras))
    access = Access(
        offline=offline, progress=reporter.download, approve=approval(reporter, yes=yes)
    )
    checkpoint = open_checkpoint(model, access)
    if checkpoint.manifest is not None:
        raise usage_error(
            f"{model} is quantized already",
            f"quantize the model it was made from: {checkpoint.manifest.base_model}",
        )
    if opened:
        from sana_cli.loading.load import check_loras

        check_loras(checkpoint, opened)
        checkpoint = replace(checkpoint, loras=opened)
    checkpoint = replace(checkpoint, decoder=obtain_decoder(decoder, checkpoint, access))
    calibrator = (
        options.calibrator(checkpoint, recipe, schemes, reporter) if options.samples else None
    )
    from sana_cli.quantize_checkpoint import quantize_folder
    from sana_cli.terminal.quantize_report import kept_report

    reports = quantize_folder(
        checkpoint,
        target,
        dict(calibrator.schemes) if calibrator else schemes,
        recipe=recipe,
        overwrite=overwrite,
        calibration=calibrator,
        advance=reporter.count,
        describe=lambda reports: kept_report(recipe, reports, _found(calibrator)),
    )
    _choose_kernels(target, options.common.device, reporter)
    return reports, _found(calibrator)


def _found(calibrator: "Calibrator | None") -> "dict[str, Any] | None":
    return calibrator.facts() if calibrator else None


def _choose_kernels(folder: Path, device: str | None, reporter: "Reporter") -> None:
    """Measure now which kernels run the folder here, so that its first picture does not have to."""
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.loading.load import choose_kernels
    from sana_cli.system.precision import pick_device

    with reporter.stage("measure kernels"):
        choose_kernels(
            open_checkpoint(str(folder)), pick_device(device or "auto"), "auto",
            notice=lambda message: None,  # the bar says so
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationWishes:
    """The options that calibration takes, as typed."""

    prompts: Path | None
    samples: int
    steps: int | None
    keep: int | None
    budget_db: float | None
    seed: int | None
    any_decoder_scheme: bool  # nobody named one: 8-bit inputs where they pay and pictures allow it
    common: "GenerationOptions"  # those that other commands have, too

    def check(self, recipe: str, transformer: str) -> None:
        """Usage errors for values that cannot work, and for those that would have no effect."""
        _require_range("--samples", self.samples, 0, MAX_SAMPLES)
        _require_range("--seed", self.seed, 0, MAX_SEED)
        _require_range("--steps", self.steps, 1, 1000)
        _require_range("--keep", self.keep, 0, 10**6)
        if self.budget_db is not None and not (
            math.isfinite(self.budget_db) and 0 < self.budget_db <= 100
        ):
            raise usage_error(f"--budget-db {self.budget_db:g} is out of range", "use 1 to 100")
        if self.keep is not None and self.budget_db is not None:
            raise usage_error("give --keep or --budget-db, not both", "omit one")
        choosing = {"--keep": self.keep, "--budget-db": self.budget_db}
        for option, value in choosing.items():
            if value is not None and transformer == "none":
                raise usage_error(
                    f"{option} has no effect: --transformer none keeps every layer",
                    f"omit {option}",
                )
        if self.samples:
            return
        if recipe in KEPT_HALF:
            raise usage_error(
                f"--recipe {recipe} ranks layers by calibration, which --samples 0 leaves out",
                "omit --samples, or use another recipe",
            )
        needless: dict[str, object] = {
            "--calibration-prompts": self.prompts,
            "--steps": self.steps,
            "--seed": self.seed,
            "--device": None if "device" in self.common.sources else self.common.device,
            **choosing,
        }
        for option, given in needless.items():
            if given is not None:
                raise usage_error(
                    f"{option} has no effect without calibration",
                    f"omit {option} or --samples 0",
                )

    def calibrator(
        self,
        checkpoint: "Checkpoint",
        recipe: str,
        schemes: dict[str, str],
        reporter: "Reporter",
    ) -> "Calibrator":
        from calibration.prompts import prompts_for, read_prompts
        from sana_cli.files import local_path

        if self.prompts:
            prompts = read_prompts(local_path(str(self.prompts)), notice=reporter.notice)
            if len(prompts) > self.samples:
                reporter.notice(
                    f"--samples {self.samples}: only the first {self.samples} of the {len(prompts)} "
                    f"prompts in {self.prompts} are used"
                )
        else:
            prompts = prompts_for(checkpoint.own.vocabulary)
        from calibration.calibrator import Calibrator, Options
        from calibration.safe_decoder import pays
        from sana_cli.config.recipes import keep_rule
        from sana_cli.system.precision import pick_device, plan_dtypes

        with self.common.naming_source_of("device"):
            device = pick_device(self.common.device or "auto")
        dtypes = plan_dtypes("auto", checkpoint.trained_precision, device)
        guard = self.any_decoder_scheme and pays(device, dtypes.vae)
        if guard:
            schemes = {**schemes, "vae": "w8a8"}
        keep = keep_rule(recipe, schemes["transformer"], count=self.keep, budget_db=self.budget_db)
        options = Options(
            prompts=tuple(prompts),
            samples=self.samples,
            steps=self.steps,
            seed=self.seed or 0,
            keep=keep,
            guard_decoder=guard,
        )
        return Calibrator(checkpoint, schemes, options, device=device, reporter=reporter)


def _require_range(option: str, value: int | None, lowest: int, highest: int) -> None:
    if value is not None and not lowest <= value <= highest:
        raise usage_error(f"{option} {value} is out of range", f"use {lowest} to {highest}")


def schemes_of(recipe: str, **chosen: str | None) -> dict[str, str]:
    """The scheme of each component; usage errors for unknown or unsuitable ones."""
    if recipe not in RECIPES:
        raise usage_error(f"unknown recipe {recipe!r}", f"known: {', '.join(RECIPES)}")
    wanted = {name: scheme for name, scheme in chosen.items() if scheme is not None}
    schemes = {**RECIPES[recipe], **wanted}
    for component, scheme in schemes.items():
        try:
            component_recipe(component, scheme)
        except ValueError as error:
            option = component.replace("_", "-")
            hint = f"use {_suiting(component)}"
            raise usage_error(f"--{option} {scheme}: {error}", hint) from error
    return schemes
