"""Settings in the EXIF of JPEG and WebP files: ours in MakerNote, `parameters` in UserComment. No torch.

UserComment is where AUTOMATIC1111's web UI and those who follow it have `parameters`. MakerNote is EXIF's place for what
a maker alone understands; the tag Software says who that is.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from PIL import Image

from sana_cli.images.formats import LONGEST_TEXT, Format
from sana_cli.images.parameters import parameters_text, settings_json

_SOFTWARE, _EXIF, _USER_COMMENT, _MAKER_NOTE = 0x0131, 0x8769, 0x9286, 0x927C
_CODES = {
    b"UNICODE\0": "",
    b"ASCII\0\0\0": "utf-8",
    b"JIS\0\0\0\0\0": "iso2022_jp",
    bytes(8): "utf-8",
}
_OURS = b"sana\0"  # how our MakerNote begins
_LONGEST = 4 * 2**20  # bytes of a text that is read


def exif_of(
    settings: Mapping[str, Any], format: Format, *, first: Mapping[str, Any] | None = None
) -> bytes:
    """Return the EXIF of a picture; of a sheet, `parameters` are those of the `first` picture.

    `parameters` are omitted where both do not fit into the format.
    """
    ours = _OURS + settings_json(settings).encode()
    # UTF-16 with the high byte first, as the web UI writes it: some readers know no other order.
    parameters = b"UNICODE\0" + parameters_text(first or settings).encode("utf-16-be", "replace")
    exif = Image.Exif()
    exif[_SOFTWARE] = f"sana {settings.get('version', '')}".strip()
    private = exif.get_ifd(_EXIF)
    private[_MAKER_NOTE] = ours
    if len(ours) + len(parameters) <= LONGEST_TEXT[format]:
        private[_USER_COMMENT] = parameters
    return exif.tobytes()


def settings_text(image: Image.Image) -> str | None:
    """Return the JSON that `exif_of` stored in an open picture; None if there is none."""
    note = _private(image).get(_MAKER_NOTE, b"")
    if not isinstance(note, bytes) or not note.startswith(_OURS) or len(note) > _LONGEST:
        return None
    return note[len(_OURS) :].decode("utf-8", "replace")


def user_comment(image: Image.Image) -> str:
    """Return the text in UserComment, which begins with the name of its encoding; "" if there is none."""
    comment = _private(image).get(_USER_COMMENT, b"")
    if not isinstance(comment, bytes) or len(comment) > _LONGEST or comment[:8] not in _CODES:
        return ""
    encoding, data = _CODES[comment[:8]], comment[8:]
    if encoding:
        return data.decode(encoding, "replace").rstrip("\0")
    # Programs write either order, and none says which. In the wrong one, Latin letters and digits are far away.
    texts = [data.decode(order, "replace") for order in ("utf-16-be", "utf-16-le")]
    return max(texts, key=lambda text: sum(c.isascii() for c in text)).rstrip("\0")


def tag(image: Image.Image, number: int) -> str:
    """Return the text of one of the picture's main tags; "" if there is none."""
    with suppress(Exception):  # Pillow raises what it likes for broken EXIF
        value = image.getexif().get(number, "")
        return value if isinstance(value, str) and len(value) <= _LONGEST else ""
    return ""


def _private(image: Image.Image) -> Mapping[int, Any]:
    with suppress(Exception):
        return image.getexif().get_ifd(_EXIF)
    return {}
