"""Save a pipeline's picture to a file; until then, finished latents are kept in the same folder.

If decoding fails in any way, the latents stay, and the error names the command that resumes from them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from quant.backends.dispatch import BACKENDS, Backend
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.decoder_files import OtherDecoder
from sana_cli.checkpoints.model_names import BUILTIN_MODELS
from sana_cli.config.choices import DecodeMode
from sana_cli.errors import ExitCode, SanaError
from sana_cli.files import require_another
from sana_cli.images.tensors import to_image
from sana_cli.pipeline import latents_file
from sana_cli.pipeline.components import Components, plan_decode
from sana_cli.pipeline.decode import decode_latents
from sana_cli.pipeline.init_images import composite_of
from sana_cli.pipeline.latents_file import HowToFinish, KeptLatents
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.pipeline.recovery import in_fp32_if_broken, within_cap
from sana_cli.pipeline.results import (
    GenerationResult,
    SavedResult,
    result_of,
    save_result,
    with_quality,
)
from sana_cli.pipeline.transformer_steps import OnStep
from sana_cli.progress import Reporter
from sana_cli.request.params import GenerationParams
from sana_cli.request.picture_settings import decoder_settings
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.system.precision import DtypePlan, plan_dtypes


def draw_to_file(
    pipeline: SanaPipeline,
    params: GenerationParams,
    path: Path,
    *,
    overwrite: bool,
    on_step: OnStep | None = None,
    quality: int | None = None,
) -> SavedResult:
    """Draw a picture and save it. `on_step`, and SanaError, as for `SanaPipeline` and `GenerationResult.save`."""
    watching = pipeline.watching
    if watching is not None and watching.file is not None:
        require_another(watching.file, path)  # its name may not be known before
    latents = pipeline.denoise(params, on_step=on_step)
    with keeping(path, _to_keep(pipeline, params, latents, quality), pipeline.reporter):
        result = pipeline.decode(latents, params)
        return _saved(result, path, pipeline.components, overwrite=overwrite, quality=quality)


def finish(
    file: Path,
    kept: KeptLatents,
    checkpoint: Checkpoint,
    *,
    output: Path,
    device: torch.device,
    mode: DecodeMode,
    tile: int | None,
    max_memory: int | None,
    cap_source: str,
    overwrite: bool,
    reporter: Reporter,
    decoder: OtherDecoder | None = None,
) -> tuple[SavedResult, Components]:
    """Finish the picture of a file of latents and remove the file, which stays if this fails.

    `decoder`: another one than the model's own.
    """
    how: HowToFinish = kept.how
    same = device.type == how.device or how.vae_precision == "fp32"
    precision = (
        how.vae_precision if same else plan_dtypes("auto", checkpoint.trained_precision, device).vae
    )
    backend: Backend = next((name for name in BACKENDS if name == how.backend), "auto")
    components = Components(
        checkpoint,
        RuntimeOptions(backend=backend, decode=mode, tile=tile, max_memory=max_memory),
        device=device,
        reporter=reporter,
        dtypes=DtypePlan(transformer=precision, vae=precision, text_encoder=precision),
        cap_source=cap_source,
    )
    rows, columns = (side * checkpoint.vae.downscale for side in kept.latents.shape[-2:])
    plan_decode(components, height=rows, width=columns, size=kept.size, decoder=decoder)
    width, height = kept.size
    latents = kept.latents.to(device)
    with (
        saying_how_to_finish(file),
        within_cap(
            components, width, height, remedies="close other programs, or use another --device"
        ),
    ):
        decoded = in_fp32_if_broken(
            components,
            lambda: decode_latents(
                components, latents, width=width, height=height, decoder=decoder
            ),
        )
        with components.stopwatch.timed("save"):
            image = to_image(decoded)
            image = kept.composite.over(image) if kept.composite else image
        fell_back = components.dtypes.vae != precision
        settings = {
            **{k: v for k, v in kept.settings.items() if k not in decoder_settings(None)},
            **{k: v for k, v in decoder_settings(decoder).items() if v is not None},
            **({"precision": "fp32"} if fell_back else {}),
        }
        result = _saved(
            result_of(image, components, settings), output, components, overwrite=overwrite
        )
    _remove(file, reporter)
    return result, components


def _saved(
    result: GenerationResult,
    path: Path,
    components: Components,
    *,
    overwrite: bool,
    quality: int | None = None,
) -> SavedResult:
    with components.stopwatch.timed("save"), components.reporter.stage("save"):
        saved = save_result(result, path, overwrite=overwrite, quality=quality)
    return replace(saved, seconds=components.stopwatch.seconds)


def _to_keep(
    pipeline: SanaPipeline, params: GenerationParams, latents: Tensor, quality: int | None
) -> KeptLatents:
    runtime = pipeline.components.runtime
    how = HowToFinish(
        model=model_reference(pipeline.checkpoint),
        vae_precision=pipeline.components.dtypes.vae,
        device=pipeline.components.device.type,
        backend=runtime.backend,
        decode=runtime.decode,
        tile=runtime.tile,
    )
    return KeptLatents(
        latents=latents,
        settings=with_quality(pipeline.drawing.settings_of(params), quality),
        how=how,
        composite=composite_of(params),
    )


def model_reference(checkpoint: Checkpoint) -> str:
    """Name this model so that it can be opened again from any folder."""
    if checkpoint.pth is not None:
        return str(checkpoint.pth.resolve())
    if checkpoint.revision is not None or checkpoint.name in BUILTIN_MODELS:
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
    """An error or interruption within the block names the command that resumes from the latents."""
    how = f"the finished latents are kept: {latents_file.finishing_command(path)}"
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise SanaError("interrupted", hint=how, code=ExitCode.INTERRUPTED) from interrupt
    except SanaError as error:
        error.hint = f"{error.hint}; {how}" if error.hint else how
        raise
