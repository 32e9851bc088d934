"""Questions before something that costs time, space or data. Nobody is asked who is not there."""

import sys
from typing import TYPE_CHECKING

from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.text import one_line, say

if TYPE_CHECKING:
    from sana_cli.checkpoints.hub import Offer
    from sana_cli.checkpoints.obtaining import Approve
    from sana_cli.config.variants import Variant
    from sana_cli.terminal.progress_bars import ConsoleReporter


def confirm(
    question: str, *, yes: bool, otherwise: str = "pass --yes, or run it in a terminal"
) -> None:
    """Return if the answer is yes; SanaError if it is no, or where nobody can answer: `otherwise` is its hint."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise usage_error(f"not confirmed, since this is no terminal: {question}", otherwise)
    import typer

    if not typer.confirm(one_line(question), err=True):
        raise SanaError("cancelled", code=ExitCode.INTERRUPTED)


def approval(reporter: "ConsoleReporter", *, yes: bool) -> "Approve":
    """Return what `open_checkpoint` calls before a download: a question about large ones, with no
    bars in the way.
    """

    def approve(offer: "Offer", model: object) -> None:
        from sana_cli.checkpoints.obtaining import LARGE

        if offer.missing_bytes >= LARGE:
            with reporter.paused():
                ask_to_download(offer, model, yes=yes, quiet=reporter.quiet)

    return approve


def ask_to_download(offer: "Offer", model: object, *, yes: bool, quiet: bool) -> None:
    """Show files, size, memory and licence of a download, and ask. `model` is an absent `Checkpoint`."""
    from sana_cli.checkpoints.obtaining import pull_name
    from sana_cli.config.variants import find_variant
    from sana_cli.text import readable_bytes

    if not quiet or not yes:
        say(*_description(offer, model, find_variant(offer.repo_id)), err=True)
    size = readable_bytes(offer.missing_bytes)
    confirm(
        f"Download {size} of {offer.repo_id}, and accept the licence?",
        yes=yes,
        otherwise=f"add --yes, or download it first: sana pull {pull_name(offer.repo_id)} --yes",
    )


def licence(offer: "Offer", variant: "Variant | None") -> tuple[str, str]:
    """Return the licence's name and the place of its text."""
    from sana_cli.checkpoints.hub_errors import endpoint

    if variant:
        return variant.license, variant.license_url
    return offer.licence or "none is declared", f"{endpoint()}/{offer.repo_id}"


def _description(offer: "Offer", model: object, variant: "Variant | None") -> list[str]:
    import shutil

    from sana_cli.checkpoints.checkpoint import Checkpoint
    from sana_cli.checkpoints.hub_cache import existing_parent
    from sana_cli.terminal.memory_needs import memory_in_words, memory_needs
    from sana_cli.text import columns, readable_bytes

    name, where = licence(offer, variant)
    rows = [
        (
            f"  {file.name}",
            readable_bytes(file.size),
            "damaged: fetched again" if file.name in offer.damaged
            else "here already" if file.here == file.size
            else f"{readable_bytes(file.here)} here already" if file.here else "",
        )
        for file in offer.files
    ]  # fmt: skip
    free = shutil.disk_usage(existing_parent(offer.cache)).free
    needs = isinstance(model, Checkpoint) and memory_in_words(memory_needs(model))
    return [
        f"{offer.repo_id}, revision {offer.revision[:12]}",
        *columns(rows),
        f"  {readable_bytes(offer.total_bytes)} in all, {readable_bytes(offer.missing_bytes)} to download; "
        f"{readable_bytes(free)} free in {offer.cache}",
        *([f"memory: {needs}"] if needs else []),
        f"licence: {name}, {where}",
    ]
