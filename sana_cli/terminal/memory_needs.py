"""Predict the memory of one picture on this machine, whether the model is here or not. No torch
without a GPU.
"""

from typing import TYPE_CHECKING, Any

from sana_cli.text import readable_memory

if TYPE_CHECKING:
    from sana_cli.checkpoints.checkpoint import Checkpoint

_PICTURE = "a red fox"  # any prompt: a few words change nothing that counts


def memory_needs(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Predict the memory of a picture of the model's own size here: a document of numbers and names."""
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.memory.planner import choose_for, smallest_peak
    from sana_cli.request.params import resolve
    from sana_cli.request.runtime import RuntimeOptions
    from sana_cli.system.precision import foresee_device, plan_dtypes

    options, device = GenerationOptions(prompt=_PICTURE), foresee_device("auto")
    settings = resolve(options, checkpoint)
    dtypes = plan_dtypes("auto", checkpoint.trained_precision, device)
    choice = choose_for(
        checkpoint, RuntimeOptions(), settings, dtypes, device, several=False, text_is_cached=False
    )
    return {
        "size": f"{settings.drawn_width}x{settings.drawn_height}",
        "device": device.type,
        "precision": str(dtypes),
        "plan": str(choice.plan),
        "peak_bytes": choice.peak.total,
        "least_bytes": smallest_peak(choice.job).total,
        "cap_bytes": choice.cap.bytes,
        "fits": choice.cap.holds(choice.peak),
    }


def memory_in_words(needs: dict[str, Any]) -> str:
    """Put a document of `memory_needs` into words."""
    peak, least = (readable_memory(needs[key]) for key in ("peak_bytes", "least_bytes"))
    where = f"{needs['size']} on {needs['device']} in {needs['precision']}"
    cap = needs["cap_bytes"]
    free = "" if cap is None else f"; {readable_memory(cap)} can be used here now"
    verdict = "" if needs["fits"] else ", which may not be enough here"
    return f"{peak} for {where} (plan: {needs['plan']}){verdict}; at least {least}, slower{free}"
