"""Rows of a run's manifest: what is known of each picture before and after it is drawn. No torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quant.manifest import sha256_of
from sana_cli.cluster.tasks import Outcome
from sana_cli.errors import SanaError
from sana_cli.pipeline.batch import Batch, Job
from sana_cli.request.prompt_file import Problem


class Rows:
    """Makes rows; `name_of` gives the name of a picture that holds from everywhere: an absolute path, or a URL."""

    def __init__(self, name_of: Callable[[Job], str]) -> None:
        self._name_of = name_of

    def of_outcome(self, job: Job, outcome: Outcome) -> dict[str, Any]:
        """Describe a picture of this run."""
        facts = outcome.facts
        return {
            **self._about(job), "status": outcome.status, "settings": outcome.settings or None,
            "sha256": outcome.sha256, "seconds": outcome.seconds.get("total"),
            "node": f"{outcome.node}:{outcome.process}", "error": outcome.error,
            "peak_memory_bytes": facts.get("peak_memory_bytes"),
            "predicted_peak_bytes": facts.get("predicted_peak_bytes"),
        }  # fmt: skip

    def of_known(
        self,
        batch: Batch,
        earlier: Mapping[str, Mapping[str, Any]],
        problems: Sequence[Problem],
        refused: Sequence[Job],
        refusal: SanaError | None,
    ) -> Iterator[dict[str, Any]]:
        """Describe all that is not left to draw: pictures that are there, and lines of which none will be.

        `earlier` are the rows of the manifest of an earlier run, by name.
        """
        for job in batch.jobs:
            if job.path in batch.done:
                about = self._about(job)
                known = earlier.get(about["path"], {})
                if not known.get("sha256"):
                    known = {"status": "done", "sha256": _sha256(job.path, about["path"])}
                yield {**known, **about, "settings": dict(batch.done[job.path]), "error": None}
        for problem in problems:
            yield {
                "index": problem.order, "id": problem.id, "status": "error",
                "error": _facts(problem.error),
            }  # fmt: skip
        for job in refused:
            yield {**self._about(job), "status": "error", "error": refusal and _facts(refusal)}

    def of_others(
        self,
        batch: Batch,
        earlier: Mapping[str, Mapping[str, Any]],
        is_there: Callable[[str], bool],
    ) -> list[Mapping[str, Any]]:
        """List the earlier rows of pictures that are there and that this batch does not draw."""
        own = {self._name_of(job) for job in batch.jobs}
        return [
            row for path, row in earlier.items()
            if path not in own and row.get("status") != "error" and is_there(path)
        ]  # fmt: skip

    def _about(self, job: Job) -> dict[str, Any]:
        return {
            "index": job.index, "id": job.line.id, "path": self._name_of(job), "seed": job.params.seed,
        }  # fmt: skip


def _sha256(path: Path, name: str) -> str | None:
    """Return the digest of a picture; None at a URL, where a stand-in is."""
    return sha256_of(path) if str(path.absolute()) == name else None


def _facts(error: SanaError) -> dict[str, Any]:
    return {"code": int(error.code), "message": error.message, "hint": error.hint}
