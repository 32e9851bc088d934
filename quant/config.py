"""Schemes and recipes as data: how each layer is stored and multiplied. No torch.

A scheme is written `w8a8`, `w8a16` or `w4a16-g64`: weight bits, activation bits, group size. A recipe
is an ordered list of rules over layer paths; the first match wins, and code never branches on a name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Self

from quant.schemes import EXAMPLES, SCHEMES, Scheme, scheme_named, scheme_of_bits

_NAMES = "|".join(re.escape(scheme.name) for scheme in SCHEMES)
_WRITTEN = re.compile(rf"(?P<name>{_NAMES})(?:-g(?P<g>\d+))?(?P<s>-smooth)?(?P<t>-static)?")

_FLAGS = ("smooth", "static_act", "float8")  # that a manifest holds where they are true

# Wider than the layers of any model we know; rows are padded to whole groups.
MAX_GROUP_SIZE = 2**14


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantConfig:
    """A scheme: the storage of one layer's weights and the arithmetic of its product.

    8-bit weights have one scale per output channel. 4-bit weights have one per `group_size` input
    channels of each output channel; the last group may be shorter. 8-bit activations have one scale
    per token, found while running, or one per layer, stored. Everything is symmetric: zero stays
    zero.
    """

    weight_bits: int = 8
    act_bits: int = 16  # 16: weight-only, activations keep their floating-point type
    group_size: int = 0  # input channels that share a scale; 0: all of them
    smooth: bool = False  # inputs are first multiplied by a stored factor per channel (SmoothQuant)
    static_act: bool = False  # the activation scale is stored, not found while running
    float8: bool = False  # weights and inputs of 8 bits are floats (e4m3) instead of integers

    def __post_init__(self) -> None:
        scheme = self.scheme
        if scheme.grouped != (self.group_size > 0):
            raise ValueError(
                f"{scheme.name} needs a group size, as in {scheme.example}"
                if scheme.grouped
                else f"{scheme.name} has no group size"
            )
        if self.group_size > MAX_GROUP_SIZE:
            raise ValueError(f"group size {self.group_size} is larger than {MAX_GROUP_SIZE}")
        if self.group_size % 2:
            raise ValueError(f"group size {self.group_size} is odd; two 4-bit values share a byte")
        if self.static_act and scheme.weight_only:
            raise ValueError(f"{scheme.name} leaves activations as they are, so none has a scale")

    @property
    def scheme(self) -> Scheme:
        """The record of the scheme, whatever the group size. Ask it instead of comparing bits."""
        return scheme_of_bits(self.weight_bits, self.act_bits, floats=self.float8)

    @property
    def plain(self) -> Self:
        """The same without what calibration adds."""
        return replace(self, smooth=False, static_act=False)

    def __str__(self) -> str:
        group = f"-g{self.group_size}" if self.group_size else ""
        calibrated = "-smooth" * self.smooth + "-static" * self.static_act
        return f"{self.scheme.name}{group}{calibrated}"

    @classmethod
    def parse(cls, scheme: str) -> Self | None:
        """Read `w8a8`, `w8a16`, `w4a16-g64`, ...; `none` is None. ValueError for anything else."""
        if scheme == "none":
            return None
        match = _WRITTEN.fullmatch(scheme)
        found = scheme_named(match["name"]) if match else None
        if match is None or found is None:
            raise ValueError(f"unknown scheme {scheme!r}: write {', '.join(EXAMPLES)} or none")
        return cls(
            weight_bits=found.weight_bits,
            act_bits=found.act_bits,
            group_size=int(match["g"] or 0),
            smooth=match["s"] is not None,
            static_act=match["t"] is not None,
            float8=found.floats,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A scheme for the layers whose path matches a pattern such as `*.attn2.to_k`."""

    pattern: str  # as in fnmatch; `*` crosses dots
    config: QuantConfig | None  # None: keep in floating point
    reason: str = ""  # why, for the report; every rule that keeps layers has one

    def __post_init__(self) -> None:
        if self.config is None and not self.reason:
            raise ValueError(f"rule {self.pattern!r} keeps layers and must say why")

    def matches(self, path: str) -> bool:
        return fnmatchcase(path, self.pattern)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Ordered rules for one model. A layer that no rule matches stays in floating point."""

    rules: tuple[Rule, ...]

    def rule_for(self, path: str) -> Rule | None:
        """The first rule that matches a layer's path."""
        return next((rule for rule in self.rules if rule.matches(path)), None)

    def unused(self, paths: Iterable[str]) -> list[Rule]:
        """Rules that decide nothing among these paths: a mistyped pattern shows here."""
        used = {id(self.rule_for(path)) for path in paths}
        return [rule for rule in self.rules if id(rule) not in used]


def config_to_json(config: QuantConfig | None) -> dict[str, Any] | None:
    """Return a resolved scheme in the form of a manifest."""
    if config is None:
        return None
    found = {name: value for name in _FLAGS if (value := getattr(config, name))}
    return {
        "weight_bits": config.weight_bits,
        "act_bits": config.act_bits,
        "group_size": config.group_size,
        **found,
    }


def config_from_json(values: Mapping[str, Any] | None) -> QuantConfig | None:
    """Invert `config_to_json`; raise ValueError or TypeError for values it never writes."""
    if values is None:
        return None
    for name, value in values.items():
        wanted = bool if name in _FLAGS else int
        if type(value) is not wanted:  # 64.0 is no size, and "no" would count as true
            raise TypeError(f"{name} {value!r} is not of type {wanted.__name__}")
    return QuantConfig(**values)
