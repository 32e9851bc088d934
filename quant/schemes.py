"""Quantization schemes as records: how weights are stored, what their inputs become, which layers take them. No torch.

Code asks a scheme's record and compares no bits, so a new scheme is a record here, its arithmetic in `storage.py`,
and kernels that list its name (CONTRIBUTING.md, "Add a quantization scheme").
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

LayerKind = Literal["linear", "conv", "embedding"]  # conv: k x k; 1x1 on tokens count as linear
Shape = tuple[int, ...]
STORED_TENSORS = ("qweight", "scale", "smooth", "act_scale")  # of a layer; they keep their type


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """Facts about one scheme, apart from its group size."""

    name: str  # as kernels list it, and as users write it where weights have no groups
    weight_bits: int
    act_bits: int  # 16: weight-only, activations keep their floating-point type
    storage: Literal[
        "int8", "int4", "float8"
    ]  # whose functions in `storage.py` make and read `qweight`
    qweight_dtype: str  # torch's name
    scale_dtype: str
    values_per_item: int = 1  # weights in one element of `qweight`
    grouped: bool = False  # a scale per group of input channels; else one per output channel
    integers: (
        tuple[int, int] | None
    )  # smallest and largest stored value; None: GPTQ cannot round it
    floats: bool = False  # 8 bits are floats (e4m3) instead of integers
    inputs: Literal["float", "int8", "float8"]  # what they are when they are multiplied
    layers: frozenset[LayerKind]
    # So few levels that rounding shows: calibration pays for weights alone, and sensitive layers get 8 bits.
    coarse: bool = False
    # Largest error of a kernel, relative to the norm of the reference's output.
    tolerance: float
    # The same for kernels that round inputs to 8 bits, where the model bears that; None: `tolerance` counts.
    int8_inputs_tolerance: float | None = None
    least_sqnr_db: (
        float  # of a layer with normal weights and inputs; tests hold every scheme to its own
    )
    example: str  # a complete name to type, group size included

    @property
    def weight_only(self) -> bool:
        """Inputs stay in floating point, so weights are expanded to multiply."""
        return self.inputs == "float"

    def shapes(self, weight: Shape, group_size: int) -> tuple[Shape, Shape]:
        """The shapes of `qweight` and `scale` for a weight (N, K) or (N, K, k, k)."""
        N, K, *kernel = weight
        return (
            (N, ceil(K / self.values_per_item), *kernel),
            (N, ceil(K / group_size)) if self.grouped else (N,),
        )


_INT8 = (-127, 127)  # -128 is not used, so that |q| fits 7 bits on every instruction set

SCHEMES = (
    Scheme(
        name="w8a8", example="w8a8", weight_bits=8, act_bits=8, inputs="int8",
        storage="int8", qweight_dtype="int8", scale_dtype="float32", integers=_INT8,
        layers=frozenset({"linear", "conv"}),
        # Weights of 7 bits, for processors without VNNI, are off by 0.017 on a probe's inputs.
        tolerance=0.02, least_sqnr_db=30,
    ),
    Scheme(
        name="f8a8", example="f8a8", weight_bits=8, act_bits=8, floats=True, inputs="float8",
        storage="float8", qweight_dtype="float8_e4m3fn", scale_dtype="float32", integers=None,
        layers=frozenset({"linear"}), tolerance=0.02, least_sqnr_db=27,
    ),
    Scheme(
        name="w8a16", example="w8a16", weight_bits=8, act_bits=16, inputs="float",
        storage="int8", qweight_dtype="int8", scale_dtype="float32", integers=_INT8,
        layers=frozenset({"linear", "conv", "embedding"}), tolerance=0.01, least_sqnr_db=30,
    ),
    Scheme(
        name="w4a16", example="w4a16-g64", weight_bits=4, act_bits=16, inputs="float",
        storage="int4", qweight_dtype="uint8", scale_dtype="bfloat16", values_per_item=2,
        grouped=True, integers=(-8, 7), layers=frozenset({"linear"}), coarse=True, tolerance=0.01,
        int8_inputs_tolerance=0.02,  # five times less than the error of 4-bit weights themselves
        least_sqnr_db=18,
    ),
)  # fmt: skip

EXAMPLES = tuple(scheme.example for scheme in SCHEMES)
_BY_BITS = {(scheme.weight_bits, scheme.act_bits, scheme.floats): scheme for scheme in SCHEMES}
_BY_NAME = {scheme.name: scheme for scheme in SCHEMES}


def scheme_of_bits(weight_bits: int, act_bits: int, *, floats: bool = False) -> Scheme:
    """The scheme with such weights and inputs; ValueError where there is none."""
    found = _BY_BITS.get((weight_bits, act_bits, floats))
    if found is None:
        kind = "float " if floats else ""
        raise ValueError(f"no scheme has {weight_bits}-bit {kind}weights, {act_bits}-bit inputs")
    return found


def scheme_named(name: str) -> Scheme | None:
    """The scheme that kernels and users call so, without its group size."""
    return _BY_NAME.get(name)


def examples_for(kind: LayerKind) -> tuple[str, ...]:
    """Complete names of the schemes that layers of a kind can have."""
    return tuple(scheme.example for scheme in SCHEMES if kind in scheme.layers)
