"""Options from where they are kept: the settings of a picture become `GenerationOptions`. No torch."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quant.installed import LIBRARIES, LIBRARY_PACKAGES, is_installed
from sana_cli.checkpoints.lora_file import parse_lora
from sana_cli.config.choices import parse_size
from sana_cli.config.generation import FIELDS, FILES, GenerationOptions
from sana_cli.errors import ExitCode, SanaError
from sana_cli.files import local_path
from sana_cli.request.kept_settings import decode_of, require_sensible, was_drawn_in_bins
from sana_cli.system.packages import pip_install

# What a picture does not carry where it is usual. A user's setting does not change what is repeated.
_USUAL = {
    "negative_prompt": "",
    "guidance_interval": "0-1",
    "cache": 0.0,
    "pag": "0",
    "decoder": "full",
    "upscale": 1.0,
}


def options_of_picture(settings: Mapping[str, Any], name: str) -> GenerationOptions:
    """Build the options that repeat a picture from the settings in its file `name`. Raises SanaError for unusable ones."""
    require_sensible(settings, name)
    said: dict[str, Any] = {}
    for field in FIELDS.values():
        if key := field.option.picture:
            value = settings.get(key)
            said[field.name] = _USUAL.get(field.name) if value is None else value
    if said["loras"] is not None:
        said["loras"] = tuple(said["loras"])
    width, height = parse_size(settings.get("upscaled_from") or settings["size"])
    mode, tile = decode_of(settings)
    return GenerationOptions(
        **said,
        width=width,
        height=height,
        bins=was_drawn_in_bins(settings),
        precision=str(settings.get("precision") or "auto").partition("+")[0],
        decode=mode,
        tile=tile,
        branches_apart=settings.get("branches") == "apart",
        wildcards=False,  # its prompt is what was chosen
        sources=dict.fromkeys(
            ("model", "device", "precision", "loras", "decoder", "pag", *FILES), name
        ),
    )


def lora_paths(texts: Iterable[str]) -> tuple[tuple[Path, float], ...]:
    """Parse the values of --lora as files and scales. Raises SanaError (usage) for unreadable ones."""
    return tuple((local_path(path), scale) for path, scale in map(parse_lora, texts))


def require_library(backend: str) -> None:
    """Kernels that were asked for must be there: others would draw the picture in silence."""
    module = LIBRARIES.get(backend)
    if module is not None and not is_installed(module):
        raise SanaError(
            f"--backend {backend} needs a library that is not installed here",
            hint=f"{pip_install(LIBRARY_PACKAGES[backend])}, or omit --backend",
            code=ExitCode.ENVIRONMENT,
        )


def is_text(text: str) -> bool:
    """Check whether a text can be encoded; bytes of another encoding arrive as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
