"""Data-sheet peaks of devices: the table used by `sana bench --predict`. No torch.

Dense rates (no sparsity) with fp32 accumulation. They are promises: real kernels stay below them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Peak operations a second by arithmetic (fp16 runs at bf16's rate on all of these), and bytes a second to memory."""

    name: str
    fp32: float
    bf16: float
    int8: float
    bandwidth: float
    source: str


_ADA = "NVIDIA Ada GPU architecture whitepaper v2.1, appendix A"
_T, _G = 1e12, 1e9
DEVICES: dict[str, Device] = {
    "rtx-5090": Device(
        name="GeForce RTX 5090", fp32=104.8 * _T, bf16=209.5 * _T, int8=838.0 * _T,
        bandwidth=1792 * _G, source="NVIDIA RTX Blackwell GPU architecture whitepaper, appendix A",
    ),
    "rtx-4090": Device(
        name="GeForce RTX 4090", fp32=82.6 * _T, bf16=165.2 * _T, int8=660.6 * _T,
        bandwidth=1008 * _G, source=_ADA,
    ),
    "rtx-4090-laptop": Device(
        name="GeForce RTX 4090 Laptop (150 W, 2040 MHz)", fp32=39.7 * _T, bf16=79.4 * _T,
        int8=317.6 * _T, bandwidth=576 * _G,
        source="9728 CUDA cores and 576 GB/s of NVIDIA's product page, at 2040 MHz boost",
    ),
    "rtx-4070-laptop": Device(
        name="GeForce RTX 4070 Laptop (140 W, 2175 MHz)", fp32=20.0 * _T, bf16=40.1 * _T,
        int8=160.3 * _T, bandwidth=256 * _G,
        source="4608 CUDA cores and 256 GB/s of NVIDIA's product page, at 2175 MHz boost",
    ),
    "rtx-3060": Device(
        name="GeForce RTX 3060 12 GB", fp32=12.7 * _T, bf16=25.5 * _T, int8=101.9 * _T,
        bandwidth=360 * _G,
        source="NVIDIA GA102 whitepaper's rates an SM, for 28 SMs at 1777 MHz",
    ),
    "a100": Device(
        name="A100 SXM 80 GB", fp32=19.5 * _T, bf16=312 * _T, int8=624 * _T,
        bandwidth=2039 * _G, source="NVIDIA A100 data sheet",
    ),
    "h100": Device(
        name="H100 SXM 80 GB", fp32=66.9 * _T, bf16=989.4 * _T, int8=1978.9 * _T,
        bandwidth=3350 * _G, source="NVIDIA H100 architecture whitepaper, table 2",
    ),
    "h200": Device(
        name="H200 SXM 141 GB", fp32=66.9 * _T, bf16=989.4 * _T, int8=1978.9 * _T,
        bandwidth=4800 * _G, source="NVIDIA H200 data sheet; an H100's multiprocessors and clocks",
    ),
}  # fmt: skip
