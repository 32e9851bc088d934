"""Write the model card that ships with the weights: data, training, evaluation, and how to make it again."""

import json
import os
from pathlib import Path

import torch

from training.sprites import PACKAGES
from training.vocabulary import OBJECTS, SHAPES


def write_card(
    path: Path,
    evaluation: Path,
    *,
    notes: str,
    hashes: dict[str, str],
    budgets: dict[str, tuple[int, float]],
    command: str,
    vocabulary: dict[str, list[str]],
) -> None:
    """README.md in Markdown; measured figures are those of `evaluation`, if that file exists.

    `notes` is what a person has to say of the run.
    """
    parts = [
        _HEAD.format(objects=len(OBJECTS), shapes=len(SHAPES)),
        _quality(evaluation),
        _budget(budgets, command) + ("\n\n" + notes.strip() if notes else ""),
        "## Files\n\n"
        + "\n".join(f"- `{name}`: SHA-256 `{value}`" for name, value in hashes.items()),
        "## Vocabulary\n\n"
        + "\n".join(f"- {group}: {', '.join(words)}" for group, words in vocabulary.items()),
        _DISTILLED,
        _LIMITS,
        _LICENCES.format(**{name.replace("-", "_"): package for name, package in PACKAGES.items()}),
    ]
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def _quality(evaluation: Path) -> str:
    if not evaluation.exists():
        return "## Measured quality\n\nNot evaluated yet."
    document = json.loads(evaluation.read_text(encoding="utf-8"))
    truth, settings = document["checker_on_ground_truth"], document["settings"]
    rows = [
        "| group | right | 95 % interval | seen combinations | held-out combinations |",
        "|---|---|---|---|---|",
    ]
    for group, entry in document["scores"].items():
        right = entry["right"]
        low, high = right["interval"]
        halves = [
            f"{entry[name]['hits']}/{entry[name]['trials']}" if name in entry else ""
            for name in ("seen", "held_out")
        ]
        rows.append(
            f"| {group} | {right['hits']}/{right['trials']} ({100 * right['share']:.1f} %) "
            f"| {100 * low:.0f} to {100 * high:.0f} % | {halves[0]} | {halves[1]} |"
        )
    return (
        f"## Measured quality\n\n{document['prompts']} prompts, one seed each, {settings['steps']} steps, guidance "
        f"{settings['guidance']}, scored by `training/checker.py` without a learned judge:\n\n"
        + "\n".join(rows)
        + f"\n\nAutoencoder on fresh pictures: {truth['psnr_db']} dB PSNR (worst 5 %: {truth['psnr_db_worst_5_percent']} dB), "
        f"edge contrast {truth['edge_contrast']} of the original. The checker is right on {truth['right']['hits']} of "
        f"{truth['right']['trials']} ground-truth pictures passed through the autoencoder.\n\n"
        "shape: background, colour and shape right; relations: both things right and in place; object: identified among "
        f"all {len(OBJECTS)}; count: right thing, right number."
    )


def _budget(budgets: dict[str, tuple[int, float]], command: str) -> str:
    """`budgets` holds optimizer steps and minutes of training by stage."""
    lines = [
        f"- {stage}: {steps:,} steps in {minutes:.0f} minutes"
        for stage, (steps, minutes) in budgets.items()
    ]
    machine = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{os.cpu_count()} CPU cores, no GPU"
    )
    return (
        f"## How to make it again\n\n```\n{command}\n```\n\nBudget on {machine}:\n\n"
        + "\n".join(lines)
    )


_HEAD = """
# The built-in model

A small Sana with really trained weights: DC-AE f32c32, a two-layer Gemma-2 and a Linear-DiT of eight blocks, together
about 9.5 million parameters. It draws {shapes} shapes in colours and {objects} emoji-like things at 256x256 pixels, to
show and to test the whole program without a download. It is a demonstration, not a general picture model.

- Data: pictures drawn on the fly by `training/` (scenes of one to three things on plain backgrounds, two drawing styles),
  with captions of different completeness, the fuller ones more likely. Some combinations (shape x colour, object x object)
  are held out of training altogether, to measure composition.
- Autoencoder: crops of 64 and 128 pixels first, then whole pictures; L1 + 2 MSE + edges, latents normalised to unit variance.
- Text encoder and transformer, trained together: flow matching (v = noise - x0), logit-normal timesteps with shift 3,
  caption dropout for guidance, averaged weights.
"""

_DISTILLED = """
## Distilled from it

- `builtin-sprint`, in `sprint/`: the few-step model, which draws in 1 to 4 steps what this one draws in 20, with the same
  text encoder and autoencoder. Its card, with figures, is `sprint/README.md`; `python -m training distil-steps` makes it.
- The tiny decoder of both, in `decoders/tiny/`: 646,144 parameters, 30.0 dB from the full decoder's pictures in an eighth
  of its seconds (`--decoder tiny`, and previews); `python -m training distil-decoder` makes it.
"""

_LIMITS = """
## Limits

- It knows the words above and nothing else; the program warns of others.
- Colour words apply to shapes and backgrounds, not to objects. Two different things at most, or up to three of one kind.
- Things stand at a few fixed places. Other sizes than 256x256 are outside what it was trained on.
- Fine detail of small things is soft: 32x32 pixels are one latent position.
"""

_LICENCES = """
## Licences

The weights and the recipe are part of this project, Apache-2.0. The drawings that it learned from:
Noto Emoji, Apache-2.0 (npm `{noto}`), Copyright Google; Fluent Emoji, MIT (npm `{fluent_emoji_flat}`), Copyright Microsoft.
"""
