"""What stands in a loaded model's place when it draws on a CUDA device: fused kernels, and a graph for each shape.

Nothing is trusted unseen: kernels are compared with their definitions, the first velocity with the model's own, and
a replayed graph with what it recorded. What differs is not used, and a notice says so.
"""

# B batch, C latent channels, h w latent grid

import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from quant.backends.choose import remembered
from sana_cli.engine.graph import CapturedForward
from sana_cli.engine.kernels import TRITON, Kernels
from sana_cli.engine.transformer import Condition, EngineTransformer, Text
from sana_cli.engine.trial import (
    Notice,
    Widths,
    exact_convolutions,
    relative_error,
    triton_version,
    trusted_kernels,
)
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext

# Of the velocity's norm. Roundings add up over the blocks, and move some of the values that are quantized to the
# next integer: 28 blocks of random weights differ by 0.002 in fp32 with w8a8, 0.004 in fp16, 0.015 in bf16.
_TOLERANCE = {torch.float32: 0.02, torch.float16: 0.05, torch.bfloat16: 0.1}
# A graph keeps the memory of a forward until it is dropped, which the decoder of a large picture needs; and with
# so many tokens kernels take longer than their launches.
_MOST_CAPTURED = 16384


class Engine:
    """The velocity of one model. Keeps one shape's graph, embedded timesteps and the texts of the last call."""

    def __init__(
        self,
        model: SanaTransformer2D,
        *,
        notice: Notice,
        verdicts: Path | None = None,
        candidates: Kernels = TRITON,
        graphs: bool = True,
    ) -> None:
        self._model = weakref.ref(model)
        self.notice, self.verdicts = notice, verdicts
        self.dtype = model.proj_out.weight.dtype
        self.device = model.proj_out.weight.device
        config = model.config
        widths = Widths(config.inner_dim, config.ff_dim, config.attention_head_dim)
        kernels = trusted_kernels(
            widths, self.dtype, self.device, verdicts=verdicts, notice=notice,
            candidates=candidates,
        )  # fmt: skip
        self.transformer = EngineTransformer(model, kernels)
        self.graphs = graphs
        self.summary = "native engine"
        self._conditions: dict[tuple[float, float | None], Condition] = {}
        self._contexts: Sequence[TextContext] = ()
        self._text: Text | None = None
        self._shape: object = None
        self._positions: Tensor | None = None
        self._captured: CapturedForward | None = None
        self._is_right: bool | None = None

    def velocity(
        self,
        latents: Tensor,
        timestep: float,
        contexts: Sequence[TextContext],
        guidance: float | None,
    ) -> Tensor:
        """As `SanaTransformer2D.velocity`."""
        if self._is_right is False:
            return self.model.plain_velocity(latents, timestep, contexts, guidance)
        condition = self._condition(timestep, guidance)
        text = self._prepared(latents, contexts)
        if self._is_right is None:
            self._is_right = self._agrees(latents, timestep, guidance, condition, text)
            return self.velocity(latents, timestep, contexts, guidance)
        tokens = latents[:, 0].numel()
        if self.graphs and self._captured is None and tokens <= _MOST_CAPTURED:
            self._capture(latents, condition, text)
        if self._captured is not None:
            return self._captured(latents, condition)
        return self._forward(latents, condition, text)

    def _forward(self, latents: Tensor, condition: Condition, text: Text) -> Tensor:
        return self.transformer.forward(latents, condition, text, self._positions)

    def _condition(self, timestep: float, guidance: float | None) -> Condition:
        """Embedded once: every picture of a run has the same timesteps."""
        key = (timestep, guidance)
        if key not in self._conditions:
            self._conditions[key] = self.transformer.condition(timestep, guidance)
        return self._conditions[key]

    def _prepared(self, latents: Tensor, contexts: Sequence[TextContext]) -> Text:
        """The texts as the engine reads them; drops a graph of another shape."""
        same = len(contexts) == len(self._contexts) and all(
            a is b for a, b in zip(contexts, self._contexts, strict=True)
        )
        if self._text is None or not same:
            self._contexts, self._text = tuple(contexts), self.transformer.text(contexts)
            if self._captured is not None and self._shape == (latents.shape, self._text.shape()):
                self._captured.use_text(self._text)
        shape = (latents.shape, self._text.shape())
        if shape != self._shape:
            self._shape, self._captured = shape, None
            self._positions = self.transformer.positions(*latents.shape[-2:])
        return self._text

    def _capture(self, latents: Tensor, condition: Condition, text: Text) -> None:
        try:
            self._captured = CapturedForward(self._forward, latents, condition, text)
            seconds = self._captured.seconds
            self.summary = f"native engine, CUDA graph captured in {seconds:.2f} s"
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.graphs = False
            reason = (str(error).splitlines() or ["unknown"])[0]
            self.notice(f"no CUDA graph ({reason}); every kernel is launched by itself")

    def _agrees(
        self,
        latents: Tensor,
        timestep: float,
        guidance: float | None,
        condition: Condition,
        text: Text,
    ) -> bool:
        """Whether the whole forward is the model's, tried once for each device and structure."""
        config = self.transformer.config
        kind = (
            f"engine forward {self.transformer.projections} {self.dtype} {config.inner_dim} "
            f"{config.qk_norm} {triton_version()}"
        )

        def decide() -> str:
            with exact_convolutions():
                expected = self.model.plain_velocity(latents, timestep, self._contexts, guidance)
            error = relative_error(self._forward(latents, condition, text), expected)
            return "right" if error <= _TOLERANCE[self.dtype] else f"is wrong by {error:.2g}"

        verdict = remembered(kind, self.device, decide, verdicts=self.verdicts)
        if verdict != "right":
            self.notice(f"the engine {verdict} on this device; plain PyTorch runs instead")
        return verdict == "right"

    @property
    def model(self) -> SanaTransformer2D:
        """Whose velocity this is; it holds the engine, not the other way round."""
        model = self._model()
        assert model is not None
        return model
