"""No request names a file of the server's disk."""

import msgspec
import pytest

from sana_cli.config.generation import FIELDS, FILES, GenerationOptions
from sana_cli.remote.choice import only_here
from sana_cli.remote.wire import NOT_ASKED
from sana_cli.server.schema import job_request

PLACES = ("FILE", "FOLDER", "DIR", "PATH")
# Models: those that the server was started with (`served_models.py`). Decoders: full, lite, tiny.
TAKEN_BY_NAME = {"model", "decoder"}


def test_options_that_name_files_are_uploads_or_not_asked() -> None:
    """By what the table says of their values; a new option is in one of the lists, or takes no path."""
    named = {
        name
        for name, field in FIELDS.items()
        if any(place in (field.option.metavar or "") for place in PLACES)
    }
    assert named >= {"image", "mask", "control", "loras", "output"}
    assert named - {*FILES, *NOT_ASKED} == TAKEN_BY_NAME


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("is_own", [False, True])
def test_a_path_is_no_upload(name: str, is_own: bool) -> None:
    body = b'{"prompt": "a cat", "%s": "/etc/hostname"}' % name.encode()
    with pytest.raises(msgspec.ValidationError, match=name):
        msgspec.json.decode(body, type=job_request(is_own=is_own))


def test_another_hed_network_is_used_here() -> None:
    asked = {"prompt": "x", "control": "a.png", "control_hed": "hed.pth"}
    for kind, reason in (("hed", "takes no other HED network"), ("canny", ""), (None, "")):
        options = GenerationOptions(control_type=kind, **asked)
        assert only_here(options, checks=False) == reason, "a setting for lines that OpenCV finds"


@pytest.mark.parametrize("decoder", ["/etc", "../..", "someone/somewhere", "vae.pth"])
def test_only_the_user_s_own_command_names_a_decoder_of_the_disk(decoder: str) -> None:
    body = msgspec.json.encode({"prompt": "a cat", "decoder": decoder})
    assert msgspec.json.decode(body, type=job_request(is_own=True)).decoder == decoder
    with pytest.raises(msgspec.ValidationError, match="decoder"):
        msgspec.json.decode(body, type=job_request())
