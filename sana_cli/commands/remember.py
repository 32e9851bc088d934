"""Remember each new picture in the index that `sana history` searches."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sana_cli.images.picture_index import PictureIndex
    from sana_cli.pipeline.results import SavedResult
    from sana_cli.remote.picture import RemotePicture


def picture_index() -> "PictureIndex":
    """The index of this user."""
    from sana_cli.config.places import picture_index_file
    from sana_cli.images.picture_index import PictureIndex

    return PictureIndex(picture_index_file())


def remember(picture: "SavedResult | RemotePicture") -> None:
    """Add a new picture to the index, unless the user's setting says not to."""
    from sana_cli.config.user_settings import preferences

    if preferences().remember is not False:
        picture_index().remember(picture.path, picture.settings)


def path_of(number: str) -> "Path | None":
    """The file of a picture that `sana history` numbers: `12` or `#12`; None for other names. SanaError where it is gone."""
    from sana_cli.errors import usage_error
    from sana_cli.files import local_path

    digits = number.removeprefix("#")
    if not digits.isdecimal() or len(digits) > 18 or local_path(number).exists():
        return None
    found = picture_index().picture(int(digits))
    if found is None:
        raise usage_error(
            f"no picture is remembered as {number}", "`sana history` lists them; or name a file"
        )
    if not found.is_there:
        raise usage_error(
            f"picture {number} is no longer there: {found.path}", "`sana history` lists the others"
        )
    return found.path
