"""Run one call of `sana bench`: contenders are made ready, timed, and written into one document."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from sana_cli.bench import extrapolate
from sana_cli.bench.contenders import FLOATS, PEERS, Contender, Kind, Workload
from sana_cli.bench.history import record
from sana_cli.bench.results import build_document
from sana_cli.bench.scratch import scratch_folder
from sana_cli.bench.session import measure
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.model_files import read_json
from sana_cli.checkpoints.obtain_decoder import obtain_decoder
from sana_cli.checkpoints.obtaining import Access, Approve
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.decoders import FULL
from sana_cli.config.generation import BUILTIN, GenerationOptions
from sana_cli.config.recipes import RECIPES
from sana_cli.config.variants import VARIANTS
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.request.params import GenerationParams, resolve
from sana_cli.system import cpu
from sana_cli.system.precision import Precision

_log = logging.getLogger("sana.bench")

_PROMPT = "a red cat left of a blue car"  # words that the built-in model knows


class Reporter(Protocol):
    """The part of `ConsoleReporter` that this needs."""

    def notice(self, message: str) -> None: ...

    def count(self, title: str, done: int, total: int) -> None: ...

    def download(self, file: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """The measurements to make, as asked for."""

    model: str | None  # None: `random`
    random: str | None  # a variant's name
    schemes: list[str]
    peers: list[str]  # and model folders
    decoders: list[str]  # of the schemes
    base: str | None  # whose time ratios refer to; None: the first peer, else the first contender
    workload: Workload
    runs: int
    warmup: int
    devices: list[str]  # to predict for
    subject: tuple[str, tuple[int, int]] | None  # what to predict, if not what was timed


def run(
    options: BenchOptions, *, offline: bool, reporter: Reporter, approve: Approve | None = None
) -> dict[str, Any]:
    """Measure, and extrapolate if asked to. Temporary folders are gone afterwards."""
    if crowded := cpu.crowded():
        _log.info("%s; %s", crowded, cpu.remedy())
    with scratch_folder() as scratch:
        model = options.model or _random_folder(
            options.random or "", options.schemes, scratch, reporter
        )
        access = Access(offline=offline, progress=reporter.download, approve=approve)
        checkpoint = open_checkpoint(model, access)
        workload = _check(options, checkpoint)
        peers = [_peer(peer, model, workload, access) for peer in options.peers]
        for decoder in options.decoders:
            obtain_decoder(decoder, checkpoint, access)
        schemes = [
            _drawing_with(contender, decoder)
            for contender in [
                _scheme(s, checkpoint, model, scratch, reporter) for s in options.schemes
            ]
            for decoder in options.decoders
        ]
        contenders = _with_names_of_their_own([*schemes, *peers])
        names = [contender.name for contender in contenders]
        base = options.base or next((c.name for c in contenders if c.kind != "sana"), names[0])
        if base not in names:
            raise usage_error(f"--base {base} is not timed", f"one of: {', '.join(names)}")
        results = measure(
            contenders, workload, runs=options.runs, warmup=options.warmup, scratch=scratch,
            announce=reporter.count,
        )  # fmt: skip
        document = build_document(
            results, contenders, workload,
            model=f"{options.random}, random weights" if options.random else checkpoint.name,
            base=base, runs=options.runs, warmup=options.warmup,
        )  # fmt: skip
        record(document, model)
        if options.devices:
            document["prediction"] = extrapolate.extrapolate(
                document, options.devices, checkpoint=checkpoint, subject=options.subject,
                gemma=read_json(checkpoint.folder / "text_encoder/config.json"),
            )  # fmt: skip
        return document


def workload(
    *,
    size: tuple[int, int] | None,
    steps: int | None,
    timed_steps: int | None,
    batch: int,
    device: str,
    prompt: str | None,
) -> Workload:
    """The picture that all contenders draw."""
    width, height = size or (None, None)
    return Workload(
        prompt=prompt or _PROMPT, width=width, height=height, steps=steps,
        timed_steps=timed_steps, batch=batch, device=device,
    )  # fmt: skip


def _check(options: BenchOptions, checkpoint: Checkpoint) -> Workload:
    """Raise SanaError for mistakes that show before any process is started.

    Returns the workload with the model's own size and steps where none were given: all contenders draw the same.
    """
    settings = _settings(options.workload, checkpoint)
    quantizing = [scheme for scheme in options.schemes if scheme not in FLOATS]
    if checkpoint.manifest is not None and quantizing:
        raise usage_error(
            f"{checkpoint.name} is quantized already",
            f"omit --scheme {quantizing[0]}, or name the model it was made from",
        )
    return replace(
        options.workload, width=settings.width, height=settings.height, steps=settings.steps
    )


def _settings(workload: Workload, checkpoint: Checkpoint) -> GenerationParams:
    request = GenerationOptions(
        prompt=workload.prompt, width=workload.width, height=workload.height, steps=workload.steps
    )
    return resolve(request, checkpoint)


def _scheme(
    scheme: str, checkpoint: Checkpoint, model: str, scratch: Path, reporter: Reporter
) -> Contender:
    if scheme in FLOATS:
        precision = cast(Precision, scheme)
        name = "sana" if scheme == "auto" else f"sana-{scheme}"
        return Contender(name=name, kind="sana", model=model, precision=precision)
    from sana_cli.quantize_checkpoint import quantize_folder

    target = scratch / f"{checkpoint.name}-{scheme}"
    advance: Callable[[str, int, int], None] = lambda component, done, total: reporter.count(  # noqa: E731
        f"{scheme}: {component}", done, total
    )
    quantize_folder(checkpoint, target, RECIPES[scheme], recipe=scheme, advance=advance)
    return Contender(name=f"sana-{scheme}", kind="sana", model=str(target))


def _drawing_with(contender: Contender, decoder: str) -> Contender:
    if decoder == FULL:
        return contender
    return replace(contender, name=f"{contender.name}-{Path(decoder).stem}", decoder=decoder)


def _peer(peer: str, model: str, workload: Workload, access: Access) -> Contender:
    if peer in PEERS:
        # Peers compute in fp32 on a CPU and in the trained precision elsewhere, as `auto` says for us.
        folder = str(open_checkpoint(model, offline=True).folder) if model == BUILTIN else model
        kind = cast(Kind, peer)
        if peer.endswith("-fp32"):
            return Contender(name=peer, kind=kind, model=folder, precision="fp32")
        return Contender(name=peer, kind=kind, model=folder)
    checkpoint = open_checkpoint(peer, access)
    _settings(workload, checkpoint)
    return Contender(name=checkpoint.name, kind="sana", model=peer)


def _with_names_of_their_own(contenders: list[Contender]) -> list[Contender]:
    """Add a number to the names of folders that are named alike, or like our own contenders."""
    found: dict[str, Contender] = {}
    for contender in contenders:
        name, number = contender.name, 2
        while name in found:
            name, number = f"{contender.name}-{number}", number + 1
        found[name] = replace(contender, name=name)
    return list(found.values())


def _random_folder(alias: str, schemes: list[str], scratch: Path, reporter: Reporter) -> str:
    """A model folder of real shapes with random weights, after checking that there is room for it."""
    quantized = sum(scheme not in FLOATS for scheme in schemes)
    needed = sum(VARIANTS[alias].download_bytes.values()) * (1 + 0.4 * quantized)
    free = shutil.disk_usage(scratch).free
    if needed > free:
        raise SanaError(
            f"random weights of {alias} take {needed / 1e9:.1f} GB in {scratch.parent}, {free / 1e9:.1f} are free",
            hint="set TMPDIR to a folder with more room",
            code=ExitCode.ENVIRONMENT,
        )
    reporter.notice(
        f"random weights of {alias}: {needed / 1e9:.1f} GB in {scratch}, for this run only"
    )
    from sana_cli.bench.random_model import write_model

    folder = scratch / alias
    write_model(alias, folder)
    return str(folder)
