"""`SanaPipeline`: one model, ready to draw, for Python, the command, a server or a worker alike.

    encode -> init_noise -> denoise -> decode -> GenerationResult

It returns images and writes no picture files (`saving.py` does), prints nothing, and leaves the process as it was:
garbage collector, allocator, environment, torch's flags and the CUDA memory fraction are the caller's.
"""

# C latent channels, h w latent grid

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.generation import FIELDS, GenerationOptions, wrong_value
from sana_cli.errors import SanaError
from sana_cli.loading.load import check_loras
from sana_cli.pipeline.arguments import (
    CALLBACKS,
    callbacks_from,
    require_functions,
    require_latents,
    require_options,
    require_params,
    require_prompts,
    require_unchanged,
)
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.drawing import Drawing
from sana_cli.pipeline.fair_lock import FairLock
from sana_cli.pipeline.planning import Expects
from sana_cli.pipeline.python_words import in_python
from sana_cli.pipeline.recovery import within_cap
from sana_cli.pipeline.results import GenerationResult
from sana_cli.pipeline.text import EncodedPair
from sana_cli.pipeline.transformer_steps import OnStep
from sana_cli.pipeline.watching import Watching
from sana_cli.progress import BarReporter, Reporter, SilentReporter
from sana_cli.request.params import GenerationParams, resolve
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.system.precision import pick_device

OnPreview = Callable[
    [Image.Image, int, int], object
]  # the picture so far, step, steps; False cancels
TEXTS_AT_ONCE = 64  # of a list of prompts, that are encoded before the first is drawn


class SanaPipeline:
    """Draws pictures with one model. Calls from several threads take turns, in the order in which they came."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: RuntimeOptions | None = None,
        *,
        device: torch.device,
        reporter: Reporter | None = None,
        expects: Expects = "more",
        cap_source: str = "",
    ) -> None:
        """For who has a `Checkpoint`; others use `open`. Loads nothing yet.

        `expects` says what follows a picture, and so what is worth keeping in memory. `cap_source` is where the memory
        cap is set, for messages. SanaError for a precision that breaks the model's pictures.
        """
        self.checkpoint = checkpoint
        self.reporter = reporter or SilentReporter()
        self.components = Components(
            checkpoint, runtime or RuntimeOptions(), device=device,
            reporter=self.reporter, expects=expects, cap_source=cap_source,
        )  # fmt: skip
        self.watching: Watching | None = None  # sees pictures while they are drawn
        self.drawing = Drawing(self.components)
        self._words: Callable[[], AbstractContextManager[None]] = nullcontext  # of errors
        self._turn = FairLock()
        self._closed = False

    @classmethod
    def open(
        cls,
        model: str | Path = "builtin",
        *,
        device: str = "auto",
        offline: bool = False,
        progress: bool = False,
        **runtime: Any,
    ) -> Self:
        """Open a model by name, hub id or folder, as `--model` takes it; parts are loaded when they are needed.

        `device` is "auto", "cpu", "cuda" or "mps"; `offline` uses downloaded files only; `progress` draws bars (tqdm).
        The rest are fields of `RuntimeOptions`: precision, backend, plan, decode, tile, max_memory ("4GiB" or bytes),
        prompt_cache. SanaError for a model or a value that cannot work.
        """
        if not isinstance(model, str | PathLike):
            raise wrong_value(FIELDS["model"], model)
        with in_python():
            options = RuntimeOptions.of(device=device, **runtime)
            checkpoint = open_checkpoint(str(model), offline=offline)
            options.require_backend(checkpoint)
            reporter = BarReporter() if progress else None
            pipeline = cls(checkpoint, options, device=pick_device(device), reporter=reporter)
        pipeline._words = in_python
        return pipeline

    # -- whole pictures --

    def params(self, prompt: str, **options: Any) -> GenerationParams:
        """Resolve `prompt` and the options of a picture for this model; draws a random seed if none is given.

        Options are fields of `GenerationOptions`: seed, steps, guidance_scale, negative_prompt, width, height, image,
        mask, strength, ... Raises SanaError for options that cannot be drawn, or do not belong to one picture.
        """
        require_options(options)
        with self._words():
            return resolve(GenerationOptions.of(prompt=prompt, **options), self.checkpoint)

    def __call__(
        self,
        prompt: str | GenerationParams,
        *,
        on_step: OnStep | None = None,
        on_preview: OnPreview | None = None,
        **options: Any,
    ) -> GenerationResult:
        """Draw one picture. Options as for `params`.

        `on_step(step, steps)` is called after every step, `on_preview(image, step, steps)` about ten times a picture;
        a callback that returns False cancels. SanaError for what cannot be drawn; Cancelled.
        """
        require_functions(on_step=on_step, on_preview=on_preview)
        params = self._resolved(prompt, options)
        watching = Watching(show=on_preview, every=None) if on_preview else self.watching
        with self._drawing(params):
            latents = self.drawing.denoise(params, on_step, watching)
            return self.drawing.decode(latents, params)

    def stream(
        self, prompts: Iterable[str | GenerationParams], **options: Any
    ) -> Iterator[GenerationResult]:
        """Draw one picture after another and give each when it is done; options as for a call, for all of them.

        The texts of a list are encoded together, with one load of the text encoder; those of an iterator one by one,
        as they come.
        """
        require_prompts(prompts)
        return self._stream(prompts, callbacks_from(options), options)

    def _stream(
        self, prompts: Iterable[Any], callbacks: dict[str, Any], options: dict[str, Any]
    ) -> Iterator[GenerationResult]:
        at_once = TEXTS_AT_ONCE if isinstance(prompts, Sequence) else 1
        waiting = iter(prompts)
        while some := list(islice(waiting, at_once)):
            resolved = [self._resolved(prompt, options) for prompt in some]
            if len(resolved) > 1:
                self.encode_ahead(resolved)
            for params in resolved:
                yield self(params, **callbacks)

    def _resolved(
        self, prompt: str | GenerationParams, options: dict[str, Any]
    ) -> GenerationParams:
        """The parameters of a picture, which options cannot change once they are resolved."""
        if not isinstance(prompt, GenerationParams):
            require_options(options, *CALLBACKS)
            return self.params(prompt, **options)
        require_unchanged(options)
        return prompt

    def encode_ahead(self, wanted: Sequence[GenerationParams]) -> None:
        """Encode the texts and originals of pictures to come, all with one encoder, in place of earlier ones."""
        if not wanted:
            return
        planning = self.components.planning
        planning.expects = "several" if planning.expects == "one" else planning.expects
        with self._words():
            for loras in {params.loras for params in wanted}:
                check_loras(self.checkpoint, loras)
        with self._drawing(wanted[0]):
            self.drawing.encode(wanted)

    # -- parts --

    def encode(self, params: GenerationParams) -> EncodedPair:
        """The embeddings of the prompt and, where guidance has two branches, of the negative prompt."""
        with self._drawing(params):
            return self.drawing.text(params)

    def denoise(self, params: GenerationParams, *, on_step: OnStep | None = None) -> Tensor:
        """Finished latents (1, C, h, w) fp32 on the pipeline's device. Errors as for a call."""
        with self._drawing(params):
            return self.drawing.denoise(params, on_step, self.watching)

    def decode(self, latents: Tensor, params: GenerationParams) -> GenerationResult:
        """The picture of finished latents (1, C, h, w) fp32. Errors as for a call."""
        with self._drawing(params):
            require_latents(latents, params, self.checkpoint)
            return self.drawing.decode(latents, params)

    # -- between pictures --

    def report_to(self, reporter: Reporter) -> None:
        """Report what follows to another receiver, which hears every notice again. Not while a picture is drawn."""
        self.reporter = self.components.reporter = reporter
        self.components.told.clear()

    @property
    def kept_bytes(self) -> int:
        """Predicted bytes of the parts that are kept for the next picture; 0 where nothing is in memory."""
        return self.components.planning.kept_bytes if self.components.is_loaded else 0

    def unload(self) -> None:
        """Give back all memory; the next picture loads its parts again."""
        with self._turn:
            self.drawing.clear()

    # -- closing --

    def close(self) -> None:
        """Give back all memory. Pictures can no longer be drawn; closing twice is fine."""
        with self._turn:
            self._closed = True
            self.drawing.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _drawing(self, params: GenerationParams) -> Iterator[None]:
        """Reserve the pipeline for one picture, planned and under the memory cap. Raises SanaError if it is closed."""
        require_params(params)
        with self._turn, self._words():
            if self._closed:
                raise SanaError("this pipeline is closed", hint="open another one")
            self.drawing.prepare(params)
            with within_cap(self.components, params.drawn_width, params.drawn_height):
                yield
