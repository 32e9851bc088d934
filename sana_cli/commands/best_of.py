"""`--best-of N --score COMMAND`: draw N seeds, have another program score each picture, keep the best.

Inference-time scaling as NVIDIA does it for SANA-1.5 (arXiv 2501.18427, section 2.4). The scorer is one process: a line of
JSON in for each picture, a line of JSON out.
"""

import json
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sana_cli.commands.remember import remember
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.request.output_paths import Target, output_paths
from sana_cli.request.params import GenerationParams, resolve_all
from sana_cli.text import print_json, say, shortened

if TYPE_CHECKING:
    from sana_cli.commands.generate_call import Call
    from sana_cli.commands.generate_session import GenerateSession
    from sana_cli.pipeline.results import GenerationResult
    from sana_cli.terminal.display import LivePreview


class Scorer:
    """Another program that scores pictures. Closing it ends the program."""

    def __init__(self, command: str, *, patience_s: float = 5) -> None:
        """Start the program, which has so many seconds to end. SanaError for a command that cannot be started."""
        self.command, self._patience_s = command, patience_s
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise usage_error(
                f"cannot read --score {command!r}: {error}", "quote its words as in a shell"
            ) from error
        if not words:
            raise usage_error("--score is empty", "name a program: --score 'python score.py'")
        try:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
            )
        except OSError as error:
            raise usage_error(
                f"cannot start --score {command}: {error.strerror or error}",
                "check the path, and that it may be run",
            ) from error

    def score(self, picture: Path, settings: Mapping[str, Any]) -> float:
        """Return the score of a picture. SanaError where the program ends or answers anything else."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {
            "picture": str(picture),
            "prompt": settings["prompt"],
            "seed": settings["seed"],
            "settings": dict(settings),
        }
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        except (OSError, UnicodeError) as error:
            raise self._failed(f"cannot be read: {error}") from error
        if not line:
            raise self._failed(self._ending())
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        value = answer.get("score") if isinstance(answer, dict) else answer
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise self._failed(f"answered {shortened(repr(line.strip()), 60)}")
        return float(value)

    def _ending(self) -> str:
        try:
            return f"has ended with exit code {self._process.wait(timeout=self._patience_s)}"
        except subprocess.TimeoutExpired:
            return "has closed its input or output"

    def _failed(self, what: str) -> SanaError:
        return SanaError(
            f"--score {self.command} {what}",
            hint='it must answer each line of JSON with one such as {"score": 0.8}; its own errors are above',
            code=ExitCode.ENVIRONMENT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=self._patience_s)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()


def _is_finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


class BestOf:
    """The pictures of one prompt with several seeds, of which the best is saved."""

    def __init__(self, call: "Call", session: "GenerateSession", number: int, score: str) -> None:
        """SanaError for what cannot be drawn, saved or scored, before any work."""
        self._call, self._session = call, session
        options = replace(session.options, count=number)
        self._pictures = resolve_all(options, session.checkpoint)
        self._target = Target.of_options(session.options)
        for params in self._pictures:  # whichever is the best: its name must be free
            self._path_of(params)
        self._scores: list[tuple[int, float]] = []
        self._best: tuple[float, GenerationResult, GenerationParams] | None = None
        self._score = score

    def draw(self, live: "LivePreview") -> None:
        """Draw, score, and save the best; after an error the best so far."""
        session = self._session
        with Scorer(self._score) as scorer, tempfile.TemporaryDirectory(prefix="sana-") as folder:
            try:
                for params in self._pictures:
                    result = session.several()(params)
                    file = Path(folder) / f"{params.seed}.png"
                    result.save(file)
                    score = scorer.score(file, result.settings)
                    self._scores.append((params.seed, score))
                    if self._best is None or score > self._best[0]:
                        self._best = score, result, params
                    with session.reporter.paused():
                        live.clear()
                        if not self._call.json and not session.reporter.quiet:
                            say(f"seed {params.seed}  score {score:g}", err=True)
            finally:
                if self._best is not None:
                    self._save(*self._best)

    def _save(self, score: float, result: "GenerationResult", params: GenerationParams) -> None:
        from sana_cli.pipeline.results import save_result
        from sana_cli.terminal.report import picture_facts, summary

        settings = result.settings | {"best_of": len(self._scores), "score": score}
        path = self._path_of(params)
        saved = save_result(
            replace(result, settings=settings), path,
            overwrite=self._call.overwrite, quality=self._session.options.quality,
        )  # fmt: skip
        remember(saved)
        with self._session.reporter.paused():
            if self._call.json:
                scores = [{"seed": seed, "score": value} for seed, value in self._scores]
                print_json(
                    {
                        "model": self._session.checkpoint.name,
                        "scores": scores,
                        "images": [picture_facts(saved)],
                    }
                )
            else:
                say(*summary(saved, quiet=self._session.reporter.quiet))
            self._call.seeing.show(saved.path)

    def _path_of(self, params: GenerationParams) -> Path:
        return output_paths(self._target, [params], overwrite=self._call.overwrite)[0]
