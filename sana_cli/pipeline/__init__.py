"""From a request to a picture: `SanaPipeline` and the stages that it runs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sana_cli.pipeline.pipeline import SanaPipeline
    from sana_cli.pipeline.results import GenerationResult

__all__ = ["GenerationResult", "SanaPipeline"]


def __getattr__(name: str) -> Any:
    """The two public names, without torch until one is asked for."""
    if name == "SanaPipeline":
        from sana_cli.pipeline.pipeline import SanaPipeline

        return SanaPipeline
    if name == "GenerationResult":
        from sana_cli.pipeline.results import GenerationResult

        return GenerationResult
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
