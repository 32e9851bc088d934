"""Masks of other programs, made masks of ours, which are white where a picture is redrawn."""

import asyncio
import io

from sana_cli.errors import SanaError
from sana_cli.server.problems import Problem
from sana_cli.server.uploads import held


async def redrawn_where_transparent(name: str, content: bytes) -> tuple[str, bytes]:
    """OpenAI's mask, transparent where the picture is redrawn; one without transparency is ours already. Raises Problem."""
    try:
        return name, await asyncio.to_thread(_white_where_transparent, content)
    except SanaError as error:
        raise Problem(
            400, "the mask is no picture that can be read", "send a PNG", param="mask"
        ) from error


def _white_where_transparent(content: bytes) -> bytes:
    from PIL import ImageOps

    from sana_cli.images.reading import opened

    with held(content, "sana-mask-") as path, opened(path) as image:
        if not image.has_transparency_data:
            return content
        mask = ImageOps.invert(image.convert("RGBA").getchannel("A"))
    out = io.BytesIO()
    mask.save(out, format="PNG")
    return out.getvalue()
