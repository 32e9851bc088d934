"""The count of passes through the transformer. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PassCount:
    """Passes of one picture: one per step and branch. The remaining passes, in neither of the last two, were skipped."""

    without_savings: int
    computed: int
    first_block_only: int

    @property
    def saved(self) -> int:
        """Passes that were not computed as a whole."""
        return self.without_savings - self.computed

    def __add__(self, other: "PassCount") -> "PassCount":
        """Passes of two drawings."""
        return PassCount(
            without_savings=self.without_savings + other.without_savings,
            computed=self.computed + other.computed,
            first_block_only=self.first_block_only + other.first_block_only,
        )

    def __str__(self) -> str:
        left_out = self.saved - self.first_block_only
        parts = [
            f"{self.computed} of {self.without_savings} passes computed",
            f"{self.first_block_only} ended after the first block" if self.first_block_only else "",
            f"{left_out} left out" if left_out else "",
        ]
        return ", ".join(part for part in parts if part)
