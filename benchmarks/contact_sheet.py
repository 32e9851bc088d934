"""The README's first picture: what the built-in model draws, each with its prompt and seed.

`python -m benchmarks.contact_sheet` writes `docs/images/contact-sheet.jpg`. Any cell is redrawn, bit
for bit on one machine, by `sana generate PROMPT --seed SEED`.
"""

from pathlib import Path

from PIL import Image

from sana_cli.images.contact_sheet import Layout
from sana_cli.pipeline import SanaPipeline

CELLS = (
    ("a large panda on a pink background", 4),
    ("a cat left of a pizza on a blue background", 1),
    ("a small green triangle on a white background", 1),
    ("three apples on a white background", 1),
    ("a rocket on a white background", 2),
    ("two frogs on a purple background", 1),
    ("a large red heart on a yellow background", 1),
    ("a sun above a house on a blue background", 1),
    ("a unicorn on a pink background", 2),
    ("a blue circle above a yellow square on a white background", 1),
    ("an owl on a green background", 2),
    ("a hamburger on an orange background", 1),
)
LAYOUT = Layout(columns=4, rows=3, cell=(256, 256), caption_lines=2)
TARGET = Path(__file__).parents[1] / "docs/images/contact-sheet.jpg"


def draw_cells() -> list[Image.Image]:
    """Draw a picture per cell, as `sana generate` does."""
    with SanaPipeline.open("builtin", device="cpu", precision="fp32") as pipe:
        return [pipe(prompt, seed=seed).image for prompt, seed in CELLS]


def main() -> None:
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    captions = [f"{prompt} --seed {seed}" for prompt, seed in CELLS]
    LAYOUT.compose(draw_cells(), captions).save(TARGET, quality=90, subsampling=0)
    print(TARGET)


if __name__ == "__main__":
    main()
