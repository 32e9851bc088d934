"""Find the file of the HED network, which finds the lines of ordinary pictures for a ControlNet. torch for its headers alone."""

from dataclasses import dataclass
from pathlib import Path

from sana_cli.checkpoints.digest import files_digest
from sana_cli.checkpoints.model_files import CORRUPT, unreadable
from sana_cli.checkpoints.obtaining import Access
from sana_cli.checkpoints.published_file import PublishedFile, download
from sana_cli.checkpoints.shapes import Shape, require_shapes
from sana_cli.config.networks import HED_BLOCKS
from sana_cli.config.places import models_folder
from sana_cli.errors import ExitCode, SanaError, checkpoint_error
from sana_cli.files import local_path, require_file
from sana_cli.text import readable_bytes

PUBLISHED = PublishedFile(  # Apache-2.0; in fp16
    what="the HED network",
    source="https://huggingface.co/lllyasviel/Annotators/resolve/"
    "982e7edaec38759d914a963c48c4726685de7d96/ControlNetHED.pth",
    name="ControlNetHED.pth",
    size=29_444_406,
    sha256="5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
)
_FOLDER = "annotators"
_NO_HED = "use ControlNetHED.pth of lllyasviel/Annotators: `sana pull hed`"


@dataclass(frozen=True, slots=True, kw_only=True)
class HedFile:
    """A `.pth` file with the tensors of `models.hed.HED`."""

    path: Path
    digest: str


def find_hed(name: str | None) -> HedFile:
    """Find and check the file of that path; None: the one that `sana pull hed` keeps. SanaError where none can be used."""
    path = kept_file() if name is None else local_path(name)
    if name is None and not path.is_file():
        raise SanaError(
            "the HED network, which --control-type hed and scribble need, is not here",
            hint=f"`sana pull hed` downloads it, {readable_bytes(PUBLISHED.size)}",
            code=ExitCode.ENVIRONMENT,
        )
    require_file(path, "file", _NO_HED, ExitCode.CHECKPOINT)
    if path.suffix not in (".pth", ".pt"):
        raise checkpoint_error(f"{path} is no .pth file", hint=_NO_HED)
    from sana_cli.checkpoints.pth import headers_of

    try:
        require_shapes(_shapes(), headers_of(path), str(path))
        return HedFile(path=path, digest=files_digest([path]))
    except OSError as error:
        raise unreadable(path, CORRUPT, error) from error
    except SanaError as error:
        error.hint = _NO_HED
        raise


def pull_hed(access: Access) -> Path:
    """Download the published file where it is not here; the path to it. SanaError where that fails."""
    path = kept_file()
    if not path.is_file():
        if access.offline:
            raise SanaError(
                "the HED network is not here, and a download needs the network",
                hint="`sana pull hed --online` downloads it",
                code=ExitCode.ENVIRONMENT,
            )
        download(PUBLISHED, path, access)
    return path


def kept_file() -> Path:
    """Return where `sana pull hed` keeps the file."""
    return models_folder() / _FOLDER / PUBLISHED.name


def _shapes() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"norm": (1, 3, 1, 1)}
    before = 3
    for i, (channels, count) in enumerate(HED_BLOCKS, start=1):
        for j in range(count):
            shapes[f"block{i}.convs.{j}.weight"] = (channels, before, 3, 3)
            shapes[f"block{i}.convs.{j}.bias"] = (channels,)
            before = channels
        shapes[f"block{i}.projection.weight"] = (1, channels, 1, 1)
        shapes[f"block{i}.projection.bias"] = (1,)
    return shapes
