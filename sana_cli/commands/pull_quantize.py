"""Quantize a model after `sana pull` has downloaded it; all that can be wrong is found before."""

from pathlib import Path
from typing import TYPE_CHECKING

from sana_cli.commands.quantize import DEFAULT_SAMPLES
from sana_cli.errors import usage_error

if TYPE_CHECKING:
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.terminal.progress_bars import ConsoleReporter


class QuantizeStep:
    """The request of --quantize, checked before the download."""

    def __init__(
        self, recipe: str, samples: int, target: Path, common: "GenerationOptions"
    ) -> None:
        from sana_cli.commands.quantize import CalibrationWishes, schemes_of

        self.recipe, self.target = recipe, target
        self.schemes = schemes_of(recipe)
        self.wishes = CalibrationWishes(
            prompts=None, samples=samples, steps=None, keep=None, budget_db=None, seed=None, any_decoder_scheme=True,
            common=common,
        )  # fmt: skip
        self.wishes.check(recipe, self.schemes["transformer"])

    @classmethod
    def of(
        cls, model: str, recipe: str | None, samples: int | None, *, common: "GenerationOptions"
    ) -> "QuantizeStep | None":
        """Check the options; None without --quantize. `common`: the user's settings. SanaError (usage) where its result could not be kept."""
        from sana_cli.commands.quantize import kept_target, schemes_of

        if recipe is None:
            if samples is not None:
                raise usage_error("--samples has no effect without --quantize", "omit --samples")
            return None
        target = kept_target(model, recipe, schemes_of(recipe))
        if target.is_symlink() and not target.exists():
            raise usage_error(f"{target} is a link that leads nowhere", "remove it first")
        if target.exists():
            raise usage_error(
                f"{target.name} is here already", f"`sana remove {target.name}` first"
            )
        return cls(recipe, DEFAULT_SAMPLES if samples is None else samples, target, common)

    def run(self, model: str, reporter: "ConsoleReporter") -> str:
        """Quantize the model that is here now; return its folder."""
        from sana_cli.commands.quantize import quantize_model

        quantize_model(
            model, self.target, self.recipe, self.schemes, self.wishes,
            offline=True, yes=False, overwrite=False, reporter=reporter,
        )  # fmt: skip
        return str(self.target)
