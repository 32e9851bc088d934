"""`sana mcp`, spoken to by the official SDK's client over real standard input and output."""

import base64
import io
import json
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image

from sana_cli.checkpoints.model_names import BUILTIN_FOLDER

pytestmark = pytest.mark.skipif(find_spec("mcp") is None, reason="needs mcp")
SMALL = {"width": 64, "height": 64, "steps": 2}


@asynccontextmanager
async def session(folder: Path, *words: str) -> Any:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "sana_cli", "mcp", "--models", "builtin", "-o", str(folder), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    async with stdio_client(server) as (read, write), ClientSession(read, write) as client:
        await client.initialize()
        yield client


def talk(folder: Path, work: Callable[[Any], Awaitable[Any]], *words: str) -> Any:
    async def run() -> Any:
        with anyio.fail_after(120):
            async with session(folder, *words) as client:
                return await work(client)

    return anyio.run(run)


def drawn(result: Any) -> tuple[Image.Image, dict[str, Any]]:
    """The picture and the facts of a result."""
    assert not result.is_error, result.content
    picture, facts = result.content
    assert picture.mime_type == "image/png"
    return Image.open(io.BytesIO(base64.b64decode(picture.data))), json.loads(facts.text)


def test_draw_edit_and_list(tmp_path: Path, expected: Callable[..., bytes]) -> None:
    steps: list[tuple[float, float | None]] = []

    async def work(client: Any) -> Any:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        models = await client.call_tool("list_models", {})

        async def progress(done: float, total: float | None, message: str | None) -> None:
            steps.append((done, total))

        arguments = {"prompt": "a cat", "seed": 3, **SMALL}
        first = await client.call_tool("generate_image", arguments, progress_callback=progress)
        path = json.loads(first.content[1].text)["path"]
        edited = await client.call_tool(
            "edit_image", {"prompt": "a dog", "image": path, "strength": 0.5, "steps": 4, "seed": 1}
        )
        return tools, models, first, edited

    tools, models, first, edited = talk(tmp_path / "new/pictures", work, "--server", "off")
    assert tools == {"generate_image", "edit_image", "list_models"}
    assert "builtin" in models.content[0].text
    image, facts = drawn(first)
    assert (image.size, facts["seed"], facts["model"]) == ((64, 64), 3, "builtin")
    assert Path(facts["path"]).read_bytes() == expected("a cat", seed=3)
    assert steps == [(1, 2), (2, 2)]
    other, told = drawn(edited)
    assert other.size == (64, 64)
    assert told["path"] != facts["path"]
    assert Path(facts["path"]).read_bytes() == expected("a cat", seed=3), "the original stays"


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("generate_image", {"prompt": " "}, "the prompt is empty"),
        ("generate_image", {"prompt": "a cat", "width": 65}, "not a multiple of 32"),
        ("generate_image", {"prompt": "a cat", "model": "/etc"}, "/etc"),
        ("generate_image", {"prompt": "a cat", "steps": 0}, "steps"),
        ("edit_image", {"prompt": "a cat", "image": "/nowhere.png"}, "/nowhere.png"),
        (
            "generate_image",
            {"prompt": "a cat", "stepps": 3},
            "no argument 'stepps', did you mean 'steps'? Known: ",
        ),
        (
            "edit_image",
            {"prompt": "a cat", "image": "/nowhere.png", "width": 64},
            "no argument 'width'",
        ),
        ("list_models", {"all": True}, "no argument 'all'. Send none."),
        (
            "generate_image",
            {"prompt": "a", "steps": "x"},
            "steps cannot be 'x'. It should be a valid integer",
        ),
        (
            "generate_image",
            {"prompt": "a", "steps": 0},
            "steps cannot be 0. It should be greater than",
        ),
        ("generate_image", {}, "generate_image: prompt is missing"),
    ],
    ids=[
        "prompt",
        "size",
        "model",
        "steps",
        "image",
        "unknown",
        "of the other tool",
        "of none",
        "no number",
        "range",
        "no prompt",
    ],
)
def test_bad_input_is_told_to_the_assistant(
    studio: Any, tool: str, arguments: dict[str, Any], message: str
) -> None:
    """In this process: the errors are the server's, whatever carries them."""
    from mcp.client.client import Client

    from sana_cli.server.mcp_tools import make_server

    async def run() -> Any:
        async with Client(make_server(studio)) as client:
            return await client.call_tool(tool, arguments)

    result = anyio.run(run)
    assert result.is_error
    assert message in result.content[0].text
    assert not list(studio.folder.glob("*"))


@pytest.fixture
def studio(tmp_path: Path) -> Any:
    from sana_cli.server.mcp_tools import Studio
    from sana_cli.server.served_models import ServedModels

    return Studio(
        models=ServedModels(("builtin",), default=None), folder=tmp_path / "pictures", server="off"
    )


def test_a_running_server_draws(
    server: Any, studio: Any, expected: Callable[..., bytes], tmp_path: Path
) -> None:
    from sana_cli.config.generation import GenerationOptions

    studio.server = server.url
    seen: list[int] = []
    options = GenerationOptions.of(prompt="a cat", seed=3, **SMALL)
    path, facts = studio.draw(options, lambda step, steps: not seen.append(step))
    assert path.read_bytes() == expected("a cat", seed=3)
    assert any("drawn by the server" in line for line in facts.notices)
    assert seen == [1, 2]


def test_cancelled_between_steps(studio: Any) -> None:
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.errors import Cancelled

    options = GenerationOptions.of(prompt="a cat", seed=3, steps=5, width=64, height=64)
    with pytest.raises(Cancelled, match="after step 2 of 5"):
        studio.draw(options, lambda step, steps: step < 2)
    assert not list(studio.folder.glob("*.png"))
    studio.close()


def test_models_of_one_name_stay_two_models(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    from sana_cli.config.generation import GenerationOptions
    from sana_cli.images.picture_file import read_settings
    from sana_cli.server.mcp_tools import Studio
    from sana_cli.server.served_models import ServedModels

    names = [str(tmp_path / folder / "m") for folder in ("one", "two")]
    for name, model in zip(names, (BUILTIN_FOLDER, tiny_model), strict=True):
        shutil.copytree(model, name)
    models = ServedModels(tuple(names), default=None)
    studio = Studio(models=models, folder=tmp_path / "pictures", server="off")
    digests = []
    for name in names:
        options = GenerationOptions.of(prompt="a cat", seed=3, model=name, **SMALL)
        path, _ = studio.draw(options, lambda step, steps: True)
        digests.append(read_settings(path)["model_digest"])
    studio.close()
    assert digests[0] != digests[1]
    assert read_settings(path)["model"] == "m"
