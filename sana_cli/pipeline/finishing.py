"""From finished latents to a saved picture; what `sana generate` ends with and `sana decode` is.

Latents are written beside the picture before they are decoded. Whatever happens then, they stay, and the error says
how to go on. Running out of memory is no such end yet: smaller and smaller exact tiles are tried first.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from quant.backends.dispatch import BACKENDS, Backend
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.choices import DecodeMode
from sana_cli.config.user_settings import BUILTIN
from sana_cli.decoding.blended_tiles import count_tiles as count_blended
from sana_cli.decoding.exact_tiles import count_tiles
from sana_cli.errors import ExitCode, SanaError
from sana_cli.images import png
from sana_cli.images.tensors import resize_and_crop, to_image
from sana_cli.loading.load import accelerate, choose_kernels, load_vae
from sana_cli.memory.planner import Cap, choose_decode
from sana_cli.memory.plans import DecodePlan
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.pipeline import latents_file
from sana_cli.pipeline.guidance import PassCount
from sana_cli.pipeline.latent_preview import LatentPreview
from sana_cli.pipeline.latents_file import HowToFinish, KeptLatents
from sana_cli.pipeline.verbs import BrokenValues, decode
from sana_cli.progress import Reporter, Stopwatch
from sana_cli.request.init_image import Paste
from sana_cli.system.precision import plan_dtypes
from sana_cli.system.torch_memory import is_out_of_memory, peak_memory_bytes, release_memory

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One finished picture. `seconds` by stage, and in total; `settings` is what the file carries."""

    path: Path
    seed: int
    width: int
    height: int
    seconds: dict[str, float]
    peak_memory_bytes: int
    predicted_peak_bytes: int
    plan: str  # what was in memory when
    decode: str  # how it was decoded: "whole", "exact-tiles 512", ...
    settings: dict[str, Any]
    passes: PassCount | None = None  # None: it was only decoded


class Finisher:
    """Decodes and saves pictures of one model; keeps the decoder, and how it fits, between them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        precision: str,
        backend: Backend,
        plan: DecodePlan,
        reporter: Reporter,
        stopwatch: Stopwatch,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        """`make_room` frees what decoding does not need, and says whether there was anything."""
        self.checkpoint, self.device, self.precision = checkpoint, device, precision
        self.backend, self.plan, self.make_room = backend, plan, make_room
        self.reporter, self.stopwatch = reporter, stopwatch
        self.kernels: dict[str, str] = {}  # of quantized layers, by kind
        self.preview = LatentPreview(checkpoint)
        self._vae: AutoencoderDC | None = None

    def use_precision(self, precision: str) -> None:
        """Compute in another precision from now on."""
        self.precision, self._vae = precision, None

    def release(self) -> None:
        """Let the decoder go until it is needed again."""
        self._vae = None

    def decode(self, latents: Tensor, *, width: int, height: int) -> Tensor:
        """Latents (1, C, h, w) -> (1, 3, height, width), in the way that fits. Raises BrokenValues."""
        while True:
            try:
                vae = self._ready_vae()
                with self.stopwatch.timed("decode"):
                    decoded = self._decode_by(self.plan, vae, latents)
                    self.preview.learn(latents, decoded)
                    return resize_and_crop(decoded, height=height, width=width)
            except (MemoryError, RuntimeError, OSError) as error:
                if not is_out_of_memory(error) or not self._step_back(latents):
                    raise
            # Outside of the handler, for the same reason as in `guarded`.
            release_memory(self.device)

    def _step_back(self, latents: Tensor) -> bool:
        """Plan for less memory than was found too much; False when there is nothing left to try."""
        if self.make_room():
            self.reporter.notice(
                f"out of memory: decode {self.plan}; trying without the transformer"
            )
            return True
        downscale = self.checkpoint.vae.downscale
        smaller = self.plan.smaller(*(side * downscale for side in latents.shape[-2:]))
        if smaller is None:
            return False
        self.reporter.notice(f"out of memory: decode {self.plan}; trying {smaller}")
        self.plan = smaller
        return True

    def _decode_by(self, plan: DecodePlan, vae: AutoencoderDC, latents: Tensor) -> Tensor:
        height, width = (side * vae.config.downscale for side in latents.shape[-2:])
        total = None
        if plan.mode != "whole":
            count = count_tiles if plan.mode == "exact-tiles" else count_blended
            total = count(height, width, plan.tile)
        with self.reporter.stage("decode", total) as advance:
            return decode(vae, latents, plan=plan, advance=advance if total else lambda: None)

    def _ready_vae(self) -> AutoencoderDC:
        if self._vae is None:
            with self.stopwatch.timed("load"), self.reporter.stage("load decoder"):
                vae = load_vae(self.checkpoint, dtype=self.precision, device=self.device)
                self.kernels |= accelerate_with_notice(
                    vae, self.device, self.backend, self.reporter
                )
                self._vae = vae
        return self._vae

    def save(
        self,
        decoded: Tensor,
        path: Path,
        *,
        settings: Mapping[str, Any],
        overwrite: bool,
        predicted_peak: int,
        plan: str,
        paste: Paste | None = None,
    ) -> Picture:
        """Write the picture, with what stays of an original, and say what became of it."""
        carried = {key: value for key, value in settings.items() if key != "decode"}
        # Blended tiles draw something else, exact ones round in another way.
        if self.plan.mode != "whole":
            carried["decode"] = str(self.plan)
        with self.stopwatch.timed("save"), self.reporter.stage("save"):
            image = to_image(decoded)
            image = paste.over(image) if paste else image
            png.save_png(image, path, settings=carried, overwrite=overwrite)
        height, width = decoded.shape[-2:]
        return Picture(
            path=path,
            seed=carried["seed"],
            width=width,
            height=height,
            seconds=self.stopwatch.seconds,
            peak_memory_bytes=peak_memory_bytes(self.device),
            predicted_peak_bytes=predicted_peak,
            plan=plan,
            decode=str(self.plan),
            settings=carried,
        )


def accelerate_with_notice(
    model: torch.nn.Module, device: torch.device, backend: Backend, reporter: Reporter
) -> dict[str, str]:
    """Give quantized layers their kernels; says where a backend that was asked for has none."""
    chosen = accelerate(model, device, backend, notice=reporter.notice)
    others = [kind for kind, kernel in chosen.items() if not kernel.startswith(backend)]
    if backend in ("torchao", "quanto") and others:
        reporter.notice(f"{backend} has no kernel for {', '.join(others)}; our own runs there")
    return chosen


def guarded(stage: Callable[[], _T], *, safest: bool, fall_back: Callable[[str], None]) -> _T:
    """Run a stage; if its values are broken, once more after `fall_back`, unless it is `safest` already."""
    try:
        return stage()
    except BrokenValues as broken:
        if safest:
            raise _no_picture(broken) from broken
        reason = str(broken)
    # Outside of the handler, where the error no longer holds what the stage had allocated.
    fall_back(reason)
    try:
        return stage()
    except BrokenValues as broken:
        raise _no_picture(broken) from broken


def _no_picture(broken: BrokenValues) -> SanaError:
    return SanaError(
        f"no picture: {broken}, in fp32",
        hint="the weights are probably damaged; download the model again",
        code=ExitCode.CHECKPOINT,
    )


@contextmanager
def translate_out_of_memory(
    width: int,
    height: int,
    *,
    held: Cap | None = None,
    remedies: str = "draw a smaller --size, close other programs, or use a smaller model",
) -> Iterator[None]:
    """Turn every form of "no memory left" into one SanaError; `held` is the cap that allocations were held to."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise SanaError(
            f"out of memory at {width}x{height}" + (f", {held}" if held else ""),
            hint=f"give a higher --max-memory, {remedies}" if held else remedies,
            code=ExitCode.ENVIRONMENT,
        ) from error


def hold_to(cap: Cap, device: torch.device) -> Cap | None:
    """Let allocations on a CUDA device fail beyond a cap that was asked for, so that a smaller plan is tried.

    Returns the cap, or None where nothing is held to one.
    """
    if device.type != "cuda" or not cap.asked or not cap.bytes:
        return None
    whole = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap.bytes / whole))
    return cap


def model_reference(checkpoint: Checkpoint) -> str:
    """What opens this model again, from any folder."""
    if checkpoint.pth is not None:
        return str(checkpoint.pth.resolve())
    if checkpoint.revision is not None or checkpoint.name == BUILTIN:
        return checkpoint.name
    return str(checkpoint.folder.resolve())


@contextmanager
def keeping(picture: Path, kept: KeptLatents, reporter: Reporter) -> Iterator[None]:
    """Latents are in a file while the block runs, and stay there if it fails."""
    try:
        path = latents_file.write_beside(picture, kept)
    except SanaError as error:  # the picture may still succeed
        reporter.notice(f"finished latents are not kept: {error.message}")
        yield
        return
    with saying_how_to_finish(path):
        yield
    _remove(path, reporter)


def _remove(path: Path, reporter: Reporter) -> None:
    """The picture is safe; latents that cannot be removed are no reason to fail."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        reporter.notice(f"{path} is no longer needed and cannot be removed: {error.strerror}")


@contextmanager
def saying_how_to_finish(path: Path) -> Iterator[None]:
    """An error or interruption within the block names the command that goes on from the latents."""
    how = f"the finished latents are kept: {latents_file.finishing_command(path)}"
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise SanaError("interrupted", hint=how, code=ExitCode.INTERRUPTED) from interrupt
    except SanaError as error:
        error.hint = f"{error.hint}; {how}" if error.hint else how
        raise


def finish(
    file: Path,
    kept: KeptLatents,
    checkpoint: Checkpoint,
    *,
    output: Path,
    device: torch.device,
    mode: DecodeMode,
    tile: int | None,
    cap: Cap,
    overwrite: bool,
    reporter: Reporter,
) -> tuple[Picture, Finisher]:
    """Finish the picture of a file of latents and remove the file, which stays if this fails."""
    how: HowToFinish = kept.how
    same = device.type == how.device or how.vae_precision == "fp32"
    precision = (
        how.vae_precision if same else plan_dtypes("auto", checkpoint.trained_precision, device).vae
    )
    rows, columns = (side * checkpoint.vae.downscale for side in kept.latents.shape[-2:])
    plan, predicted, notice = choose_decode(
        checkpoint,
        precision,
        device,
        cap,
        height=rows,
        width=columns,
        mode=mode,
        tile=tile,
        size=kept.size,
    )
    if notice:
        reporter.notice(notice)
    held = hold_to(cap, device)
    backend: Backend = next((name for name in BACKENDS if name == how.backend), "auto")
    if cap.asked:
        choose_kernels(checkpoint, device, backend, components=("vae",), notice=reporter.notice)
    finisher = Finisher(
        checkpoint,
        device=device,
        precision=precision,
        backend=backend,
        plan=plan,
        reporter=reporter,
        stopwatch=Stopwatch(device),
    )
    settings = dict(kept.settings)
    width, height = kept.size

    def in_fp32(reason: str) -> None:
        reporter.notice(f"{reason} in {precision}; trying once more in fp32")
        finisher.use_precision("fp32")
        settings["precision"] = "fp32"

    latents = kept.latents.to(device)
    no_memory = translate_out_of_memory(
        width, height, held=held, remedies="close other programs, or use another --device"
    )
    with saying_how_to_finish(file), no_memory:
        decoded = guarded(
            lambda: finisher.decode(latents, width=width, height=height),
            safest=precision == "fp32",
            fall_back=in_fp32,
        )
        picture = finisher.save(
            decoded,
            output,
            settings=settings,
            overwrite=overwrite,
            predicted_peak=predicted.total,
            plan=f"decode {finisher.plan}",
            paste=kept.paste,
        )
    _remove(file, reporter)
    return picture, finisher
