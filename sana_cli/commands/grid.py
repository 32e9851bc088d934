"""`--grid`: all pictures of a call on one labelled sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sana_cli import __version__
from sana_cli.config.generation import GenerationOptions
from sana_cli.request.output_paths import Target

if TYPE_CHECKING:
    from sana_cli.images.contact_sheet import Cell, ContactSheet
    from sana_cli.pipeline.batch import Job
    from sana_cli.pipeline.results import SavedResult
    from sana_cli.progress import Reporter
    from sana_cli.remote.picture import RemotePicture


class Grid:
    """The sheet of one call. `jobs` are the pictures of a batch, those that were there before too."""

    def __init__(
        self, options: GenerationOptions, *, overwrite: bool, reporter: "Reporter"
    ) -> None:
        self._target, self._overwrite, self._reporter = (
            Target.of_options(options),
            overwrite,
            reporter,
        )
        self._sheet: ContactSheet | None = None
        self.jobs: Sequence[Job] | None = None

    def plan(self, pictures: int, name: str) -> None:
        """Check where the sheet goes, before any work; says that a single picture makes none."""
        if pictures < 2:
            self._reporter.notice("--grid has no effect on a single picture")
            return
        from sana_cli.images.contact_sheet import ContactSheet

        self._sheet = ContactSheet(
            self._target.path,
            name=name,
            overwrite=self._overwrite,
            is_folder=self._target.is_folder,
        )

    def save(self, drawn: "Sequence[SavedResult | RemotePicture]", model: str) -> Path | None:
        """The sheet with all pictures; None where there is none."""
        cells = self._cells(drawn) if self._sheet else []
        if self._sheet is None or len(cells) < 2:  # others are refused
            return None
        settings = {"model": model, "version": __version__}
        return self._sheet.save(cells, settings=settings, notice=self._reporter.notice)

    def _cells(self, drawn: "Sequence[SavedResult | RemotePicture]") -> "list[Cell]":
        from sana_cli.images.contact_sheet import Cell

        if self.jobs is None:
            return [
                Cell(
                    path=picture.path,
                    prompt=picture.settings["prompt"],
                    seed=picture.seed,
                    size=(picture.width, picture.height),
                )
                for picture in drawn
            ]
        return [
            Cell(
                path=job.path,
                prompt=job.params.prompt,
                seed=job.params.seed,
                size=(job.params.width, job.params.height),
            )
            for job in self.jobs
        ]
