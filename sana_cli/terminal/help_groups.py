"""Tables of each command's help: its options in groups, and examples. No Typer.

A command that is not named here has its options in one list. Options that no group names come last.
"""

from collections.abc import Mapping

Groups = Mapping[str, tuple[str, ...]]  # title: names of parameters, in order
Examples = tuple[tuple[str, str], ...]  # command line, and what it means or ""

OTHERS = "Others"

GROUPS: Mapping[str, Groups] = {
    "generate": {
        "What to draw": (
            "prompt", "negative", "seed", "count", "prompts", "from_", "wildcards", "wildcards_folder", "best_of", "score",
        ),
        "Start from a picture": (
            "image", "strength", "mask", "control", "control_scale", "control_type", "control_hed", "control_order",
        ),
        "Size": ("size", "aspect", "width", "height", "bins", "upscale", "upscale_strength"),
        "Model and method": (
            "model", "lora", "decoder", "steps", "guidance", "guidance_interval", "pag", "scheduler", "cache", "enhance", "safety",
        ),
        "Output": (
            "output", "format", "quality", "force", "grid", "show", "preview", "preview_file", "preview_every", "json", "quiet",
        ),
        "Speed and memory": (
            "dry_run", "max_memory", "plan", "device", "precision", "backend", "decode", "tile", "prompt_cache",
        ),
        "Server and cluster": ("server", "local", "ray", "workers", "manifest"),
    },
    "repl": {
        "What to draw": ("negative", "seed", "count", "size"),
        "Model and method": ("model", "lora", "steps", "guidance", "safety"),
        "Output": ("output", "show", "history", "quiet"),
        "Speed and memory": ("max_memory", "device", "precision", "server", "local"),
    },
    "serve": {
        "Address and access": ("host", "port", "name", "api_key_file"),
        "Models and memory": ("models", "keep_alive", "max_memory", "safety"),
        "Requests": ("queue", "drain"),
        "Output": ("output", "quiet"),
    },
    "decode": {
        "Output": ("file", "output", "force", "json", "quiet"),
        "Model": ("model", "decoder"),
        "Speed and memory": ("how", "tile", "max_memory", "device"),
    },
    "quantize": {
        "Model": ("model", "out", "lora", "decoder"),
        "Scheme": ("recipe", "transformer", "vae", "text_encoder"),
        "Calibration": ("samples", "calibration_prompts", "steps", "seed", "device"),
        "Sensitive layers": ("keep", "budget_db"),
        "Output": ("force", "json", "quiet"),
    },
    "bench": {
        "What to time": ("model", "random", "scheme", "decoder", "compare", "base"),
        "The picture": ("prompt", "size", "steps", "batch", "device"),
        "How often": ("runs", "warmup", "timed_steps"),
        "Prediction for GPUs": ("predict", "predict_for"),
        "Output": ("json", "plot", "html", "fail_if", "quiet"),
    },
}  # fmt: skip

EXAMPLES: Mapping[str, Examples] = {
    "generate": (
        ('sana generate "a red fox" --model sana-0.6b --size 1024x768', ""),
        ('sana generate "a cat" --count 2 --seed 7 -o cat.png', "cat-7.png, cat-8.png"),
        ("sana generate --from cat-7.png --steps 28", "the same, finer"),
        ("sana generate --prompts prompts.txt -o pictures/", "one prompt per line"),
        ('sana generate "a cat" --dry-run', "how much memory it takes"),
    ),
    "repl": (
        ("sana repl -o pictures/", "type prompts; pictures go to that folder"),
        ("sana repl --quiet < prompts.txt", "draws each line of a file"),
    ),
    "serve": (
        ("sana serve --models builtin --max-memory 4GiB", ""),
        ("sana serve --keep-alive forever", "models stay in memory"),
    ),
    "decode": (("sana decode fox.png.latents.safetensors --tile 128", "needs less memory"),),
    "info": (
        ("sana info sana-0.6b", "size, defaults, memory it takes here"),
        ("sana info cat-7.png", "its settings, and the command to repeat it"),
    ),
    "history": (
        ("sana history fox snow", "prompts that have both words"),
        ("sana history --since 2026-11 --model 0.6b", ""),
    ),
    "quantize": (
        ("sana quantize sana-0.6b", "called sana-0.6b-w8a8"),
        ("sana quantize sana-0.6b --samples 0", "quicker, without data"),
        ("sana quantize sana-0.6b small --recipe int4", "a folder, 4 bits"),
    ),
    "bench": (
        ("sana bench --steps 2 --runs 1", "the built-in model, seconds"),
        ("sana bench --model sana-0.6b --scheme fp32,w8a8 --compare diffusers", ""),
        ('sana bench --fail-if "total>10"', "for CI"),
    ),
    "compare": (("sana compare sana-0.6b sana-0.6b-w8a8", "what quantizing costs"),),
    "pull": (
        ("sana pull sana-0.6b", ""),
        ("sana pull sana-0.6b --quantize w8a8 --samples 0", "also made smaller"),
    ),
    "default": (("sana default sana-0.6b", "used when --model is not given"),),
    "remove": (("sana remove sana-0.6b", ""),),
}  # fmt: skip

FIRST_STEPS: Examples = (
    ('sana generate "a cat left of a pizza"', "draw a first picture; no download"),
    ("sana doctor", "check this machine"),
    ("sana --help", "list all commands"),
)


def aligned(examples: Examples) -> str:
    """Example lines with what they mean in one column."""
    width = max((len(line) for line, meaning in examples if meaning), default=0)
    return "".join(
        f"  {line.ljust(width)}  {meaning}".rstrip() + "\n" for line, meaning in examples
    )
