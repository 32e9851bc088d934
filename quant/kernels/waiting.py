"""Wait for the kernel before this one. Imports Triton, like `epilogue.py`."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def wait_for_inputs(DEPENDENT: tl.constexpr):
    """Come first in a kernel: where its launch depends on the one before, wait until that has ended and its results are there.

    Then let the next be launched, which waits for this one: only its launch overlaps with what follows here.
    """
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
