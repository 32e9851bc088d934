"""Replay Gemma-2 on the tokens of a prompt as a CUDA graph: its launches take a host longer to issue than a device to run.

A prompt follows the instruction, whose keys and values stay where they are. Prompts are padded on the right to one of a few
lengths, which no real token sees, and each length has a graph: from its second prompt on, since a capture takes longer than one
prompt. The first is padded as well, so that a prompt's states do not depend on those before it.
"""

# B texts (one), L tokens, C width

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from quant.backends.attempt import Failure, attempt
from sana_cli.accelerate.cuda.graph import Recording
from sana_cli.accelerate.cuda.kernels import REFERENCE, TRITON, Kernels
from sana_cli.accelerate.cuda.text_encoder import FusedTrunk
from sana_cli.accelerate.cuda.trial import Notice, Widths, trusted_kernels
from sana_cli.models.gemma2 import Gemma2, KeyValues

LENGTHS = (16, 32, 64, 128, 320)  # 300 tokens are the most that a prompt has
_HEADS = (16, 32, 64, 128, 256)  # widths that the kernel takes

Trunk = Callable[[Tensor, Sequence[KeyValues]], Tensor]


def replay_texts(
    model: nn.Module,
    *,
    notice: Notice,
    verdicts: Path | None = None,
    candidates: Kernels = TRITON,
) -> None:
    """Give a text encoder, all layers of which stay on the device, a trunk that is replayed."""
    if not isinstance(model, Gemma2) or not isinstance(model.layers, nn.ModuleList):
        return
    weight, E, trunk = model.norm.weight, model.config.head_dim, None
    if E in _HEADS:
        kernels = trusted_kernels(
            Widths(len(weight), len(weight), min(len(weight), 32), E), weight.dtype, weight.device,
            verdicts=verdicts, notice=notice, candidates=candidates, names=("softcap_attention",),
        )  # fmt: skip
        if candidates is REFERENCE or kernels.softcap_attention is not REFERENCE.softcap_attention:
            trunk = FusedTrunk(model, kernels)
    vars(model)["trunk"] = ReplayedTrunk(model, trunk, notice=notice)


def padded_length(L: int) -> int | None:
    """Return the length that so many tokens are padded to; None for more than any."""
    return next((length for length in LENGTHS if L <= length), None)


class ReplayedTrunk:
    """`Gemma2.trunk` of a model, which it holds weakly; a graph for each length, all of one past."""

    def __init__(self, model: Gemma2, trunk: Trunk | None, *, notice: Notice) -> None:
        """`trunk` runs tokens that follow a past; None for the model's own."""
        self._model, self.notice = weakref.ref(model), notice
        self._trunk = trunk or (lambda x, past: self._own(x, list(past))[0])
        self._past: list[KeyValues] | None = None
        self._asked: Counter[int] = Counter()
        self._graphs: dict[int, _Graph] = {}
        self._is_off = False

    def __call__(
        self, x: Tensor, past: list[KeyValues] | None = None, *, keep: bool = False
    ) -> tuple[Tensor, list[KeyValues]]:
        """Run tokens as `Gemma2.trunk` does."""
        length = padded_length(x.shape[1])
        if not past or keep or length is None or len(x) > 1:
            return self._own(x, past, keep=keep)
        if past is not self._past:
            self._past = past
            self._asked.clear()
            self._graphs.clear()
        self._asked[length] += 1
        if length not in self._graphs and self._asked[length] > 1 and not self._is_off:
            self._capture(x, past, length)
        if length in self._graphs:
            return self._graphs[length](x), []
        states = self._trunk(F.pad(x, (0, 0, 0, length - x.shape[1])), past)
        return states[:, : x.shape[1]], []

    def _own(
        self, x: Tensor, past: list[KeyValues] | None, *, keep: bool = False
    ) -> tuple[Tensor, list[KeyValues]]:
        model = self._model()
        assert model is not None
        return Gemma2.trunk(model, x, past, keep=keep)

    def _capture(self, x: Tensor, past: list[KeyValues], length: int) -> None:
        found = attempt(lambda: _Graph(self._trunk, x, past, length), fatal=(MemoryError,))
        if isinstance(found, Failure):
            self._is_off = True
            self.notice(
                f"no CUDA graph of the text encoder ({found.reason}); every kernel is launched by itself"
            )
            return
        self._graphs[length] = found


class _Graph:
    """The trunk for up to `length` tokens."""

    def __init__(self, trunk: Trunk, x: Tensor, past: list[KeyValues], length: int) -> None:
        self._x = F.pad(x, (0, 0, 0, length - x.shape[1]))
        mine = self._x
        self._recording = Recording(lambda: (trunk(mine, past),), x.device)

    def __call__(self, x: Tensor) -> Tensor:
        """States (1, L, C), the caller's own."""
        L = x.shape[1]
        self._x[:, :L].copy_(x)
        self._x[:, L:].zero_()  # what no one sees must be finite all the same
        return self._recording.replay()[0][:, :L].clone()
