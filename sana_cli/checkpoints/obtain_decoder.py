"""Download a published decoder, or one of a hub's repository, where it is not here. What fits the model is judged before."""

from typing import TYPE_CHECKING

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.decoder_files import OtherDecoder
from sana_cli.checkpoints.file_selection import DECODER
from sana_cli.checkpoints.find_decoder import (
    config_of,
    find_decoder,
    hub_folder,
    kept_file,
    not_here,
    own_decoder,
    require_latents,
)
from sana_cli.checkpoints.model_names import looks_like_repo
from sana_cli.checkpoints.obtaining import Access, refuse_large
from sana_cli.checkpoints.published_file import PublishedFile, download
from sana_cli.config.decoders import DECODERS, FULL, PUBLISHED_SCALING, PublishedDecoder
from sana_cli.errors import SanaError
from sana_cli.files import local_path

if TYPE_CHECKING:
    from sana_cli.checkpoints.hub import Offer


def obtain_decoder(name: str | None, checkpoint: Checkpoint, access: Access) -> OtherDecoder | None:
    """The decoder of this name for a model, downloaded as far as `access` goes; None for the model's own.

    SanaError where it cannot be had or does not fit; nothing is downloaded then.
    """
    if name is None or name == FULL or own_decoder(name, checkpoint) is not None:
        return find_decoder(name, checkpoint)
    published = DECODERS.get(name)
    if not local_path(name).exists():
        if published is not None:
            require_latents(name, PUBLISHED_SCALING, checkpoint)
            if published.kind == "file" and not kept_file(published).is_file():
                download_decoder(published, checkpoint, access)
        repo = published.source if published and published.kind == "hub" else name
        if (published is None or published.kind == "hub") and looks_like_repo(repo):
            _fetch(repo, name, checkpoint, access)
    return find_decoder(name, checkpoint)


def _fetch(repo_id: str, name: str, checkpoint: Checkpoint, access: Access) -> None:
    """Fetch a decoder's repository into the hub's cache, once its configuration is known to fit."""
    if hub_folder(repo_id) is not None:
        return
    from sana_cli.checkpoints import hub

    if access.offline or access.planning or hub.is_offline():
        raise not_here(name, checkpoint)
    offer = hub.ask(repo_id, components=(DECODER,))
    if offer.missing_bytes:
        _judge(offer, name, checkpoint)
        try:
            (access.approve or refuse_large)(offer, None)
        except SanaError as error:
            error.hint = not_here(name, checkpoint).hint
            raise
    hub.fetch(repo_id, components=(DECODER,), progress=access.progress)


def _judge(offer: "Offer", name: str, checkpoint: Checkpoint) -> None:
    """SanaError for a repository whose decoder is of other latents; reads its configuration alone."""
    from sana_cli.checkpoints.hub_outline import Outline

    outline = Outline(offer)
    try:
        require_latents(name, config_of(outline.folder).scaling_factor, checkpoint)
    except SanaError as error:  # about a file of the repository, not of a temporary folder
        error.message = error.message.replace(f"{outline.folder}/", f"{offer.repo_id}: ")
        error.hint += "; nothing was downloaded"
        raise


def download_decoder(published: PublishedDecoder, checkpoint: Checkpoint, access: Access) -> None:
    """Download a single file, unless nothing may be downloaded."""
    if access.offline or access.planning:
        raise not_here(published.name, checkpoint)
    file = PublishedFile(
        what=f"the decoder {published.name}", source=published.source, name=published.file,
        size=published.bytes, blob_id=published.blob_id,
    )  # fmt: skip
    download(file, kept_file(published), access)
