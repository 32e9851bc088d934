"""The OpenAPI document is true: calls that are made of it end as it says."""

from collections.abc import Callable
from typing import Any

from sana_cli.config.generation import FIELDS
from sana_cli.remote.wire import NOT_ASKED
from sana_cli.server.openapi import document


def test_every_option_of_the_table_is_a_field() -> None:
    schemas = document()["components"]["schemas"]
    wanted = {name for name in FIELDS if name not in NOT_ASKED}
    assert wanted <= set(schemas["JobRequest"]["properties"])
    assert {"seed", "steps", "guidance_scale", "negative_prompt"} <= set(
        schemas["ImageRequest"]["properties"]
    )


def test_calls_made_of_the_document_end_as_it_says(starting: Callable[..., Any]) -> None:
    """A short run; `python -m benchmarks.serve_fuzz` makes thousands."""
    from benchmarks.serve_fuzz import SMALL, fuzz

    server = starting(limits=SMALL)
    assert sum(fuzz(server.url, 2).values()) > 30
