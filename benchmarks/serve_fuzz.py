"""Thousands of calls made of the server's own OpenAPI document: `python -m benchmarks.serve_fuzz --examples 400`.

Every operation gets that many valid and invalid calls from schemathesis. A 5xx, or an answer that the document does not
list, ends it with 1. Sizes and steps are limited, so that valid calls draw quickly.
"""

import argparse
import json
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance

from sana_cli.server.limits import Limits
from sana_cli.server.run import Serving, run
from sana_cli.server.served_models import ServedModels

SMALL = Limits(pixels=64 * 64, steps=2, pictures=2, queue=1000)


def fuzz(url: str, examples: int) -> dict[str, int]:
    """Call every operation of the server at `url`, and count the answers by status. Raises what schemathesis finds."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses: dict[str, int] = {}
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        if operation.path.endswith("/events"):
            continue  # of no job: the same as the job itself

        @given(case=operation.as_strategy())
        @settings(
            max_examples=examples, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def call(case: Any) -> None:
            response = case.call(timeout=60)
            statuses[str(response.status_code)] = statuses.get(str(response.status_code), 0) + 1
            case.validate_response(response, checks=[not_a_server_error, status_code_conformance])

        call()
    return statuses


def main() -> int:
    """Start a server and fuzz it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=400, help="calls for each operation")
    examples = parser.parse_args().examples
    there, told = threading.Event(), list[Any]()

    def listening(host: str, port: int, stop: Any) -> None:
        told[:] = [f"http://{host}:{port}", stop]
        there.set()

    with tempfile.TemporaryDirectory() as folder:
        serving = Serving(
            host="127.0.0.1", port=0, models=ServedModels(("builtin",), default=None), limits=SMALL,
            output=Path(folder),
        )  # fmt: skip
        thread = threading.Thread(target=run, args=(serving,), kwargs={"listening": listening})
        thread.start()
        there.wait(60)
        url, stop = told
        try:
            statuses = fuzz(url, examples)
        finally:
            stop()
            thread.join()
    print(json.dumps({"calls": sum(statuses.values()), "statuses": statuses}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
