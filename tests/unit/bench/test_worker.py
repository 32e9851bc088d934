"""What fails in a contender's process, and how the session hears of it."""

import io
import json
from types import SimpleNamespace
from typing import Any

import pytest

from sana_cli.bench import worker
from sana_cli.bench.session import Worker
from sana_cli.errors import ExitCode, SanaError
from tests.faults import raising


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            SanaError("no model_index.json", hint="get it again", code=ExitCode.CHECKPOINT),
            {"message": "no model_index.json", "hint": "get it again", "code": ExitCode.CHECKPOINT},
        ),
        (ValueError("bad\nshape"), {"message": "ValueError: bad", "hint": "", "code": 1}),
        (KeyError(), {"message": "KeyError: ", "hint": "", "code": 1}),
    ],
    ids=["ours", "others", "without words"],
)
def test_an_error_is_an_answer(error: Exception, told: dict[str, Any]) -> None:
    answers = io.StringIO()
    server: Any = SimpleNamespace(start=raising(error))
    worker._answer(server, {"do": "start"}, answers)
    assert json.loads(answers.getvalue()) == {"error": told}


def test_a_contender_that_fails_is_named() -> None:
    with Worker("small") as small:
        for _ in range(2):  # and it goes on
            with pytest.raises(SanaError, match=r"small: AttributeError: .*no_such"):
                small.ask("no_such")
