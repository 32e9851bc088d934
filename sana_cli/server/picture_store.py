"""The folder of a server's pictures: that of `--output`, or a private one that goes with the server."""

import os
import shutil
import tempfile
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sana_cli.files import make_folder
from sana_cli.request.output_paths import Target, output_paths

if TYPE_CHECKING:
    from sana_cli.pipeline.pipeline import SanaPipeline
    from sana_cli.pipeline.results import SavedResult
    from sana_cli.pipeline.transformer_steps import OnStep
    from sana_cli.request.params import GenerationParams

_MOST = 200  # pictures that a private folder holds; the oldest goes


class PictureStore:
    """Draws into a folder. Only the engine's thread writes."""

    def __init__(self, folder: Path | None) -> None:
        """`folder`: an existing one, whose pictures stay; None: a private one."""
        self._is_private = folder is None
        self.folder = folder or _private_folder()
        self._written: deque[Path] = deque()

    def draw(
        self, pipeline: "SanaPipeline", params: "GenerationParams", on_step: "OnStep", suffix: str = "png",
        quality: int | None = None,
    ) -> "tuple[Path, SavedResult]":  # fmt: skip
        """Draw a picture into a new file. Its finished latents are kept next to it until it is saved."""
        from sana_cli.pipeline.saving import draw_to_file

        self._require_folder()
        target = Target(path=self.folder, is_folder=True, is_pattern=False, suffix=f".{suffix}")
        path = output_paths(target, [params], overwrite=False)[0]
        result = draw_to_file(
            pipeline, params, path, overwrite=False, on_step=on_step, quality=quality
        )
        if self._is_private:
            self._written.append(path)
            while len(self._written) > _MOST:
                self._written.popleft().unlink(missing_ok=True)
        return path, result

    def _require_folder(self) -> None:
        """Make the folder again where somebody removed it. SanaError where that fails."""
        if not self.folder.is_dir():
            if self._is_private:
                self.folder = _private_folder()
            else:
                make_folder(self.folder)

    def hidden(self, text: str) -> str:
        """A text for clients, without the place of the folder."""
        inside = text.replace(f"{self.folder}{os.sep}", "")
        return inside.replace(str(self.folder), "the server's folder of pictures")

    def close(self) -> None:
        if self._is_private:
            with suppress(OSError):
                shutil.rmtree(self.folder)


def _private_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="sana-serve-"))
