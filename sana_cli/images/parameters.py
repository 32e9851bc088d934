"""Write a picture's settings as texts: ours as JSON, and `parameters`, the text that other programs read.

AUTOMATIC1111's web UI defined `parameters`; Civitai, galleries and readers of prompts follow it. No torch, no Pillow.
"""

import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

_SHORT = 10  # hex digits of a SHA-256, as galleries look them up


def settings_json(settings: Mapping[str, Any]) -> str:
    """Readable where it can be; names of files on a sheet that are not UTF-8 are kept whole as escapes."""
    text = json.dumps(dict(settings), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(dict(settings))
    return text


def parameters_text(settings: Mapping[str, Any]) -> str:
    """Return prompt, negative prompt, then `key: value` pairs on the last line."""
    lines = [_paragraph(str(settings.get("prompt", "")))]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {_paragraph(str(settings['negative_prompt']))}")
    named = {
        "Steps": "steps", "Sampler": "scheduler", "CFG scale": "guidance", "Seed": "seed",
        "Size": "size", "Model hash": "model_hash", "Model": "model", "Denoising strength": "strength",
        "Hires upscale": "hires_upscale", "Hires steps": "hires_steps", "Hires upscaler": "hires_upscaler", "Lora hashes": "loras", "Version": "version",
    }  # fmt: skip
    shown = {**settings, "loras": _lora_hashes(settings), **_hires(settings)}
    pairs = [
        f"{title}: {_value(shown[key])}"
        for title, key in named.items()
        if shown.get(key) not in (None, "")
    ]
    return "\n".join([*lines, ", ".join(pairs)])


def _hires(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the web UI calls "hires fix", whose size is that of the first drawing and whose strength the second's.

    A given picture that was only enlarged is one of its pictures from a picture.
    """
    if "upscale" not in settings:
        return {}
    if "image" in settings:
        return {"strength": settings.get("strength", settings.get("upscale_strength"))}
    return {
        "size": settings.get("upscaled_from"), "strength": settings.get("upscale_strength"),
        "hires_upscale": f"{settings['upscale']:g}", "hires_steps": settings.get("steps"),
        "hires_upscaler": "Lanczos",
    }  # fmt: skip


def _lora_hashes(settings: Mapping[str, Any]) -> str:
    """Return LoRAs by the name of their file and the beginning of its SHA-256: `style: 1a2b3c4d5e`."""
    loras, digests = settings.get("loras"), settings.get("lora_digests")
    if not isinstance(loras, list) or not isinstance(digests, list) or len(loras) != len(digests):
        return ""
    names = [re.sub(r"[,:]", "-", PurePath(str(lora).rpartition(":")[0]).stem) for lora in loras]
    return ", ".join(
        f"{name}: {str(digest)[:_SHORT]}" for name, digest in zip(names, digests, strict=True)
    )


def _value(value: object) -> str:
    """Format a value as AUTOMATIC1111's web UI does, so that programs that read its texts read ours."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:\n\r"]', text) else text


def _paragraph(text: str) -> str:
    """A prompt with the lines that it has, unless one of them would be read as something else."""
    lines = text.splitlines()
    forged = any(re.match(r"\s*(Negative prompt|Steps):", line) for line in lines)
    return " ".join(lines) if forged else text
