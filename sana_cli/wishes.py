"""What was asked for, wherever it was said: on the command line, or in the user's settings. No torch."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from sana_cli.checkpoint import Checkpoint, local_path
from sana_cli.errors import SanaError
from sana_cli.options import Backend, Decode, Precision, Scheduler, decode_mode, size_of_aspect
from sana_cli.request import Request
from sana_cli.user_config import BUILTIN, Preferences

# Said together or not at all: a size from one place and a shape from another make no sense.
_TOGETHER = (("width", "height", "aspect", "bins"), ("decode", "tile"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options of one place; None where it says nothing. `sources` names the place where nobody typed it."""

    model: str | None = None
    output: str | None = None
    width: int | None = None
    height: int | None = None
    aspect: str | None = None
    bins: bool | None = None
    steps: int | None = None
    guidance: float | None = None
    negative: str | None = None
    seed: int | None = None
    scheduler: str | None = None
    precision: str | None = None
    device: str | None = None
    backend: str | None = None
    enhance: bool | None = None
    decode: str | None = None
    tile: int | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_preferences(cls, chosen: Preferences) -> Self:
        known = {f.name for f in fields(cls)}
        values = {key: getattr(chosen, key) for key in chosen.sources if key in known}
        return cls(**values, sources=chosen.sources)

    def over(self, other: Self) -> Self:
        """These wishes, and where they say nothing the others."""
        taken: dict[str, Any] = {}
        for name in (f.name for f in fields(self) if f.name != "sources"):
            group = next((group for group in _TOGETHER if name in group), (name,))
            if all(getattr(self, each) is None for each in group):
                taken[name] = getattr(other, name)
        sources = {key: where for key, where in other.sources.items() if key in taken}
        return replace(self, **taken, sources={**sources, **self.sources})

    @property
    def model_or_builtin(self) -> str:
        return self.model or BUILTIN

    @contextmanager
    def naming_source_of(self, *names: str) -> Iterator[None]:
        """An error in the block also tells where such a value came from that nobody typed just now."""
        try:
            yield
        except SanaError as error:
            said = {self.sources[name]: name for name in names if name in self.sources}
            for source, name in said.items():
                error.message += f" ({name} is set by {source})"
            raise

    def request(
        self, prompt: str, checkpoint: Checkpoint, *, count: int = 1, overwrite: bool = False
    ) -> Request:
        """These wishes for one model. SanaError (usage) for values that cannot be read."""
        width, height = self.width, self.height
        if self.aspect:
            width, height = size_of_aspect(self.aspect, checkpoint.defaults.native_size)
        backend = self.backend or "auto"
        if checkpoint.manifest is None and "backend" in self.sources:
            backend = "auto"  # a setting for quantized models; only a flag insists
        return Request(
            prompt=prompt,
            negative_prompt=self.negative or "",
            width=width,
            height=height,
            bins=bool(self.bins),
            steps=self.steps,
            guidance_scale=self.guidance,
            scheduler=Scheduler(self.scheduler).value if self.scheduler else None,
            enhance=self.enhance,
            seed=self.seed,
            count=count,
            output=local_path(self.output) if self.output else None,
            output_is_folder=(self.output or "").endswith(("/", os.sep)),
            overwrite=overwrite,
            precision=Precision(self.precision or "auto").value,
            backend=Backend(backend).value,
            decode=decode_mode(Decode(self.decode) if self.decode else None, self.tile),
            tile=self.tile,
        )
