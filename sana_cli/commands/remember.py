"""Remember each new picture in the index that `sana history` searches."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sana_cli.images.picture_index import PictureIndex
    from sana_cli.pipeline.results import SavedResult
    from sana_cli.remote.picture import RemotePicture


def picture_index() -> "PictureIndex":
    """The index of this user."""
    from sana_cli.config.user_settings import picture_index_file
    from sana_cli.images.picture_index import PictureIndex

    return PictureIndex(picture_index_file())


def remember(picture: "SavedResult | RemotePicture") -> None:
    """Add a new picture to the index, unless the user's setting says not to."""
    from sana_cli.config.user_settings import preferences

    if preferences().remember is not False:
        picture_index().remember(picture.path, picture.settings)
