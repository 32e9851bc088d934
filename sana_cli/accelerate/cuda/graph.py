"""Record a forward as a CUDA graph, once for a shape, and replay it on other numbers in the same
memory.

A replay costs one launch on the host. A step of the Linear-DiT takes a few milliseconds on a
device, in which a host can issue a fraction of its 300 to 500 kernels.
"""

# B batch, C latent channels, h w latent grid

import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sana_cli.accelerate.cuda.transformer import Condition, StepInputs

Forward = Callable[[Sequence[Tensor], Condition, StepInputs], tuple[Tensor, ...]]
# PyTorch allows a process one capture at a time; each pipeline may have a thread.
_capturing = threading.Lock()


class CapturedForward:
    """A forward with its own copies of what it reads; any error where it cannot be captured, with the stream as it was."""

    def __init__(
        self, forward: Forward, given: Sequence[Tensor], condition: Condition, inputs: StepInputs
    ) -> None:
        """`given` are the tensors that differ in each step, the latents first."""
        self._given, self._condition, self._inputs = (
            [tensor.clone() for tensor in given], condition.copy(), inputs.copy(),
        )  # fmt: skip
        started = time.perf_counter()
        # Kernels are compiled and libraries start up before anything is recorded, on another stream than the default.
        current = torch.cuda.current_stream(given[0].device)
        beside = torch.cuda.Stream(given[0].device)
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            expected = forward(self._given, self._condition, self._inputs)
        current.wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        # A capture that fails leaves its stream the current one, in torch 2.13 too, hence the outer context. Other threads
        # may allocate meanwhile: a reader of blocks or pictures.
        with (
            _capturing,
            torch.cuda.stream(current),
            torch.cuda.graph(self._graph, stream=beside, capture_error_mode="thread_local"),
        ):
            self._results = forward(self._given, self._condition, self._inputs)
        self._graph.replay()
        for result, wanted in zip(self._results, expected, strict=True):
            error = (result.float() - wanted.float()).norm() / wanted.float().norm()
            if not float(error) <= 1e-2:  # libraries may choose another product while recording
                raise RuntimeError(f"a replay differs by {float(error):.2g} from what was recorded")
        self.seconds = time.perf_counter() - started

    def use_inputs(self, inputs: StepInputs) -> None:
        """Read other prompts or drawings of the same shapes from now on."""
        self._inputs.copy_(inputs)

    def __call__(self, given: Sequence[Tensor], condition: Condition) -> tuple[Tensor, ...]:
        """Return what the forward does, in tensors of the caller's own."""
        for mine, theirs in zip(self._given, given, strict=True):
            mine.copy_(theirs)
        self._condition.copy_(condition)
        self._graph.replay()
        return tuple(result.clone() for result in self._results)
