"""Record work on a device as a CUDA graph, once for a shape, and replay it on other numbers in the same
memory.

A replay costs one launch on the host. A step of the Linear-DiT takes a few milliseconds on a
device, in which a host can issue a fraction of its 300 to 500 kernels.
"""

# B batch, C latent channels, h w latent grid

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from quant.backends.attempt import Failure, attempt
from quant.kernels.dependent import can_depend, dependent_launches
from sana_cli.accelerate.cuda.transformer import Condition, StepInputs

Work = Callable[[], tuple[Tensor, ...]]
Forward = Callable[[Sequence[Tensor], Condition, StepInputs], tuple[Tensor, ...]]
# PyTorch allows a process one capture at a time; each pipeline may have a thread.
_capturing = threading.Lock()
_NO_MEMORY = (MemoryError, torch.OutOfMemoryError)  # another capture would find none either


class Recording:
    """Work that always reads and writes the same memory, recorded; any error where it cannot be, with the stream as it was.

    Kernels are recorded with dependent launches (`quant.kernels.dependent`) where the device has them; where the driver does
    not record those, with usual ones.
    """

    def __init__(self, work: Work, device: torch.device) -> None:
        self._work, self._device = work, device
        # Kernels are compiled and libraries start up before anything is recorded, on another stream than the default.
        self._current = torch.cuda.current_stream(device)
        self._beside = torch.cuda.Stream(device)
        expected = self._run_beside()
        self.is_dependent = can_depend(device)
        if self.is_dependent:
            refused = attempt(lambda: self._record(expected), fatal=_NO_MEMORY)
            self.is_dependent = not isinstance(refused, Failure)
        if not self.is_dependent:
            self._record(expected)
        del self._work  # it may hold what holds this

    def _run_beside(self) -> tuple[Tensor, ...]:
        self._beside.wait_stream(self._current)
        with torch.cuda.stream(self._beside):
            results = self._work()
        self._current.wait_stream(self._beside)
        return results

    def _record(self, expected: Sequence[Tensor]) -> None:
        """Record, replay once and compare with what the work gave without a graph, and with usual launches."""
        with dependent_launches(self._device) if self.is_dependent else nullcontext():
            if self.is_dependent:
                self._run_beside()  # these kernels are other ones, which are compiled
            self._graph = torch.cuda.CUDAGraph()
            # A capture that fails leaves its stream the current one, in torch 2.13 too, hence the outer context. Other threads
            # may allocate meanwhile: a reader of blocks or pictures.
            with (
                _capturing,
                torch.cuda.stream(self._current),
                torch.cuda.graph(
                    self._graph, stream=self._beside, capture_error_mode="thread_local"
                ),
            ):
                self._results = self._work()
        self._graph.replay()
        for result, wanted in zip(self._results, expected, strict=True):
            error = (result.float() - wanted.float()).norm() / wanted.float().norm()
            if not float(error) <= 1e-2:  # libraries may choose another product while recording
                raise RuntimeError(f"a replay differs by {float(error):.2g} from what was recorded")

    def replay(self) -> tuple[Tensor, ...]:
        """Do the work again; returns its results, which the next replay overwrites."""
        self._graph.replay()
        return self._results


class CapturedForward:
    """A forward with its own copies of what it reads; any error where it cannot be captured."""

    def __init__(
        self, forward: Forward, given: Sequence[Tensor], condition: Condition, inputs: StepInputs
    ) -> None:
        """`given` are the tensors that differ in each step, the latents first."""
        self._given, self._condition, self._inputs = (
            [tensor.clone() for tensor in given], condition.copy(), inputs.copy(),
        )  # fmt: skip
        started = time.perf_counter()
        mine = self._given, self._condition, self._inputs
        self._recording = Recording(lambda: forward(*mine), given[0].device)
        self.seconds = time.perf_counter() - started

    def use_inputs(self, inputs: StepInputs) -> None:
        """Read other prompts or drawings of the same shapes from now on."""
        self._inputs.copy_(inputs)

    def __call__(self, given: Sequence[Tensor], condition: Condition) -> tuple[Tensor, ...]:
        """Return what the forward does, in tensors of the caller's own."""
        for mine, theirs in zip(self._given, given, strict=True):
            mine.copy_(theirs)
        self._condition.copy_(condition)
        return tuple(result.clone() for result in self._recording.replay())
