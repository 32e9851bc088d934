"""Options of the machine that draws a picture; none of them decides what it shows. No torch."""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.choices import (
    Backend,
    Decode,
    DecodeMode,
    PlanName,
    Precision,
    decode_mode,
    parse_bytes,
)
from sana_cli.config.generation import FIELDS, GenerationOptions, unknown_option, wrong_value
from sana_cli.errors import usage_error
from sana_cli.request.options import require_library

# Options of the command that are neither a pipeline's nor a picture's, and what Python has in their place.
COMMANDS_OWN = {
    "model": "give it to SanaPipeline.open: a pipeline has one model",
    "count": "loop over seeds: pipe(prompt, seed=7), pipe(prompt, seed=8)",
    **dict.fromkeys(("output", "format"), "give a path to the result's `save`"),
    "quality": "give it to the result's `save`",
}
_OPENS_OWN = ("offline", "progress")  # arguments of SanaPipeline.open that are no runtime options


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """Device, precision and memory of a run. Pictures record them; the search for finished pictures ignores them."""

    device: str = "auto"  # "cpu", "cuda" or "mps"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    backend: Literal["auto", "native", "torchao", "quanto", "reference"] = "auto"
    plan: str | None = None  # a name of `memory.plans.NAMED`; None: the fastest that fits
    decode: DecodeMode = "auto"
    tile: int | None = None  # pixels, a multiple of 32
    branches_apart: bool = False  # only plans with guidance in two passes: sums in another order
    max_memory: int | None = None  # bytes; None: what is free
    prompt_cache: bool = True

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Build options from Python values, as the command does; `max_memory` may be "4GiB".

        Raises SanaError (usage) for unknown names and values.
        """
        usual = {field.name: field.default for field in fields(cls)}
        for name, value in values.items():
            if name in usual:
                if value is None and usual[name] is not None:
                    raise wrong_value(FIELDS[name], value)
                continue
            if name in COMMANDS_OWN:
                raise usage_error(f"{name} is not an option of a pipeline", COMMANDS_OWN[name])
            if name in FIELDS:
                hint = f"give it to the call: pipe(prompt, {name}=...)"
                raise usage_error(f"{name} is an option of a picture, not of a pipeline", hint)
            own = [each for each in usual if FIELDS[each].option.flags]
            raise unknown_option(name, ["model", *own, *_OPENS_OWN])
        return cls._read(GenerationOptions.of(**values))

    @classmethod
    def _read(cls, o: GenerationOptions) -> Self:
        """Read what does not depend on a model. Raises SanaError (usage) for unreadable values."""
        return cls(
            device=o.device or "auto",
            precision=Precision(o.precision or "auto").value,
            backend=Backend(o.backend or "auto").value,
            plan=o.plan if o.plan and PlanName(o.plan) != PlanName.AUTO else None,
            decode=decode_mode(Decode(o.decode) if o.decode else None, o.tile),
            tile=o.tile,
            branches_apart=bool(o.branches_apart),
            max_memory=parse_bytes(o.max_memory) if o.max_memory is not None else None,
            prompt_cache=o.prompt_cache is not False,
        )

    def require_backend(self, checkpoint: Checkpoint) -> None:
        """Raise SanaError where the kernels that were asked for cannot run this model, or are not installed."""
        if self.backend not in ("auto", "reference") and checkpoint.manifest is None:
            raise usage_error(
                f"{checkpoint.name} is not quantized, --backend {self.backend} has nothing to run",
                "quantize it first: sana quantize MODEL OUT",
            )
        require_library(self.backend)

    def changed(self) -> dict[str, Any]:
        """Return the options that are not what they are by themselves, by name."""
        usual = type(self)()
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(usual, name)}


def runtime_of(options: GenerationOptions, checkpoint: Checkpoint) -> RuntimeOptions:
    """Read the runtime options. Raises SanaError (usage) for values that are unreadable or do not fit the model."""
    # A setting for quantized models; only a flag insists.
    if checkpoint.manifest is None and "backend" in options.sources:
        options = replace(options, backend=None)
    runtime = RuntimeOptions._read(options)
    runtime.require_backend(checkpoint)
    return runtime
