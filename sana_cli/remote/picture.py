"""A picture that a server drew, as the reports of a command want it. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from sana_cli.pipeline.pass_count import PassCount

_FACTS = (
    "seed", "width", "height", "seconds", "peak_memory_bytes", "predicted_peak_bytes", "plan", "decode",
    "passes", "settings",
)  # fmt: skip


class RemotePicture(NamedTuple):
    """The counterpart of `pipeline.results.SavedResult`; `drawn_by` holds model, device, precision and kernels."""

    path: Path
    seed: int
    width: int
    height: int
    seconds: dict[str, float]
    peak_memory_bytes: int
    predicted_peak_bytes: int
    plan: str
    decode: str
    settings: dict[str, Any]
    passes: "PassCount | None"
    drawn_by: Mapping[str, Any]

    @classmethod
    def of(cls, said: Mapping[str, Any], path: Path) -> Self:
        """From a `picture` event. Raises KeyError, TypeError for one that is none."""
        from sana_cli.pipeline.pass_count import PassCount

        passes = PassCount(**said["passes"]) if said.get("passes") else None
        known = {name: said[name] for name in _FACTS if name != "passes"}
        by = {
            name: said.get(name) for name in ("model", "revision", "device", "precision", "kernels")
        }
        return cls(path=path, passes=passes, drawn_by=by, **known)

    def facts(self) -> dict[str, Any]:
        """Describe the picture for programs, as `GenerationResult.facts` does."""
        passes = {} if self.passes is None else {"passes": {
            name: getattr(self.passes, name)
            for name in ("without_savings", "computed", "first_block_only")
        }}  # fmt: skip
        keys = _FACTS[: _FACTS.index("passes")]
        return {**{key: getattr(self, key) for key in keys}, **passes, "settings": self.settings}

    @property
    def components(self) -> "RemoteComponents":
        """The parts that drew it, for reports."""
        by = self.drawn_by
        return RemoteComponents(
            device=str(by["device"]), dtypes=str(by["precision"]), kernels=dict(by["kernels"] or {})
        )


class RemoteComponents(NamedTuple):
    """The counterpart of `pipeline.components.Components`, for reports."""

    device: str
    dtypes: str
    kernels: dict[str, str]


class RemoteModel:
    """The counterpart of `Checkpoint`, for reports."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.name, self.revision = name, revision
