"""Map values of other programs to ours, and mistyped ones to those that they resemble."""

from collections.abc import Collection

from sana_cli.text import closest

_RESEMBLES = 0.75  # for `closest`: "cdua" and "cuda" do, "gpu" and "cpu" do not

# Values of options with choices.
VALUES = {
    **dict.fromkeys(("float16", "half", "f16"), "fp16"),
    **dict.fromkeys(("bfloat16", "bf"), "bf16"),
    **dict.fromkeys(("float32", "float", "full", "f32"), "fp32"),
    **dict.fromkeys(("gpu", "nvidia", "cuda:0"), "cuda"),
    **dict.fromkeys(("metal", "apple"), "mps"),
    **dict.fromkeys(("euler", "euler a", "euler_a", "euler_ancestral", "flow_euler", "flowmatch", "flow-match"), "flow-euler"),
    **dict.fromkeys(
        ("dpm", "dpm++", "dpm++ 2m", "dpm++2m", "dpmpp_2m", "dpm++ 2m karras", "dpmsolver", "dpmsolver++", "unipc",
         "ddim", "heun", "dpm2", "flow_dpm-solver", "flow-dpm-solver"), "flow-dpm",
    ),
    **dict.fromkeys(("lcm", "tcd", "sprint"), "scm"),
}  # fmt: skip


def meant_choice(value: str, choices: Collection[str]) -> str | None:
    """Return the choice that was probably meant by a value that is none; None if nothing resembles it."""
    meant = VALUES.get(value.lower())
    return meant if meant in choices else closest(value.lower(), choices, cutoff=_RESEMBLES)


def did_you_mean_choice(value: str, choices: Collection[str]) -> str:
    """Return ", did you mean 'x'?" for that choice; "" if there is none."""
    meant = meant_choice(value, choices)
    return f", did you mean {str(meant)!r}?" if meant else ""
