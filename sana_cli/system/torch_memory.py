"""Memory of torch: freed memory given back, the peak."""

import gc
import sys

import torch

from sana_cli.system.resident import give_back, peak_resident_bytes


def release_memory(device: torch.device) -> None:
    """Give freed weights back now, before the next part is loaded."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    give_back()


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of this process: device memory on CUDA, resident memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    known = peak_resident_bytes()
    if known is not None:
        return known
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
