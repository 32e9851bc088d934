"""The README's first picture: what the built-in model draws, each with its prompt and seed.

`python -m benchmarks.contact_sheet` writes `docs/images/contact-sheet.png`. Any cell is redrawn, bit
for bit on one machine, by `sana generate PROMPT --seed SEED`.
"""

from functools import partial
from pathlib import Path

import torch
from PIL import Image

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.images.contact_sheet import Layout
from sana_cli.images.tensors import to_image
from sana_cli.loading.load import load_prompt_encoder, load_transformer, load_vae
from sana_cli.pipeline.decode import decode
from sana_cli.pipeline.denoise import denoise, init_noise
from sana_cli.pipeline.guidance import guided_velocity
from sana_cli.pipeline.text import encode_prompt
from sana_cli.request.params import resolve
from sana_cli.schedulers import make_scheduler

CELLS = (
    ("a large panda on a pink background", 1),
    ("a cat left of a pizza on a blue background", 1),
    ("a small green triangle on a white background", 1),
    ("three apples on a white background", 1),
    ("a rocket on a black background", 1),
    ("two frogs on a purple background", 1),
    ("a large red heart on a yellow background", 1),
    ("a sun above a house on a blue background", 1),
    ("a unicorn on a white background", 1),
    ("a blue circle above a yellow square on a white background", 1),
    ("an owl on a black background", 1),
    ("a hamburger on an orange background", 1),
)
LAYOUT = Layout(columns=4, rows=3, cell=(256, 256), caption_lines=2)
TARGET = Path(__file__).parents[1] / "docs/images/contact-sheet.png"


def draw_cells() -> list[Image.Image]:
    """Draw a picture per cell, through the same functions as `sana generate`."""
    checkpoint = open_checkpoint("builtin")
    device = torch.device("cpu")
    encoder = load_prompt_encoder(checkpoint, dtype="fp32", device=device)
    transformer = load_transformer(checkpoint, dtype="fp32", device=device)
    vae = load_vae(checkpoint, dtype="fp32", device=device)
    images = []
    for prompt, seed in CELLS:
        settings = resolve(GenerationOptions(prompt=prompt), checkpoint)
        text = encode_prompt(encoder, settings)
        noise, draw = init_noise(seed, checkpoint.transformer.in_channels, settings)
        with torch.inference_mode():
            contexts = [transformer.encode_text(embeds) for embeds in text.branches]
        sampler = make_scheduler(
            settings.scheduler, settings.steps, shift=settings.flow_shift, draw_noise=draw
        )
        velocity_at = partial(
            guided_velocity, transformer, contexts, guidance_scale=settings.guidance_scale
        )
        latents = denoise(velocity_at, noise, sampler)
        images.append(to_image(decode(vae, latents)))
    return images


def main() -> None:
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    captions = [f"{prompt} --seed {seed}" for prompt, seed in CELLS]
    LAYOUT.compose(draw_cells(), captions).save(TARGET, optimize=True)
    print(TARGET)


if __name__ == "__main__":
    main()
