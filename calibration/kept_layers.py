"""Choose the most sensitive layers of the transformer, which keep more bits than the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from calibration.linears import Found
from calibration.sensitivity import enough_for, to_db, worst
from sana_cli.config.recipes import KeepRule
from sana_cli.errors import usage_error
from sana_cli.quantize_checkpoint import ComponentPlan


def choose_kept(
    keep: KeepRule, noise: Mapping[str, float], found: Found, offset_db: Callable[[], float]
) -> tuple[list[str], float | None]:
    """Return the paths that a rule keeps, and the predicted SQNR of the latents in dB where it asked for one.

    `noise` is the share of a layer alone, by path. `offset_db` draws pictures, and is called for a budget only.
    SanaError for a budget that is out of reach.
    """
    if keep.budget_db is None:
        count = keep.count if keep.count is not None else round(keep.share * len(noise))
        return worst(noise, count), None
    rest = {
        path: value * 10 ** ((found.sqnr[path] - found.spare_sqnr[path]) / 10)
        if path in found.spare
        else 0.0
        for path, value in noise.items()
    }
    offset = offset_db()
    found_enough = enough_for(noise, rest, budget_db=keep.budget_db, offset_db=offset)
    if found_enough is None:
        most = to_db(sum(rest.values())) + offset
        raise usage_error(
            f"--budget-db {keep.budget_db:g} is out of reach: about {most:.1f} dB with every layer kept",
            "ask for less, or choose a scheme with more bits",
        )
    return found_enough


def with_kept(
    plan: ComponentPlan, found: Found, kept: Sequence[str], keep: KeepRule
) -> ComponentPlan:
    """The plan with the most sensitive layers in the bits that they are kept in."""
    finished, sqnr = dict(plan.finished), dict(plan.sqnr)
    layers = []
    for layer in plan.layers:
        if layer.path not in kept:
            layers.append(layer)
        elif layer.path in found.spare:
            spare = found.spare[layer.path]
            finished[layer.path], sqnr[layer.path] = spare, found.spare_sqnr[layer.path]
            layers.append(replace(layer, config=spare.config))
        else:
            del finished[layer.path], sqnr[layer.path]
            layers.append(replace(layer, config=None, reason=keep.reason))
    return replace(plan, layers=layers, finished=finished, sqnr=sqnr)
