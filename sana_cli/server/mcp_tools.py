"""Model Context Protocol: the tools by which an assistant draws, over standard input and output.

https://modelcontextprotocol.io, with the official SDK. A running server of this user draws where there is one; else a
pipeline in this process, which stays loaded. Standard output belongs to the protocol: nothing else is written there.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field, ValidationError

from sana_cli import __version__
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import Cancelled, SanaError
from sana_cli.files import make_folder
from sana_cli.remote.artist import Artist, Unavailable
from sana_cli.remote.choice import find_server
from sana_cli.remote.picture import RemotePicture
from sana_cli.request.output_paths import Target, output_paths
from sana_cli.server.limits import Limits
from sana_cli.server.served_models import ServedModels
from sana_cli.text import did_you_mean, in_sentences, shortened

OnStep = Callable[[int, int], bool]
_INSTRUCTIONS = (
    "Draws pictures on this machine with NVIDIA's Sana. Pictures are saved as PNG files that hold their settings; "
    "the same seed draws the same picture."
)


class Drawn(BaseModel):
    """A drawn picture, for the assistant."""

    path: str
    seed: int
    width: int
    height: int
    model: str
    seconds: float
    notices: list[str]


class Model(BaseModel):
    """A model that pictures can be drawn with."""

    name: str
    is_default: bool
    native_size: int | None
    steps: int | None


@dataclass(slots=True, kw_only=True)
class Studio:
    """Draws one picture after another. For any thread."""

    models: ServedModels
    folder: Path  # of the pictures
    server: str = "auto"
    max_memory: int | None = None
    limits: Limits = field(default_factory=Limits)
    _pipelines: dict[Path, Any] = field(default_factory=dict)  # at most one, by the model's folder
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, options: GenerationOptions, on_step: OnStep) -> tuple[Path, Drawn]:
        """Draw a picture into a new file; `on_step` that returns False cancels. SanaError, Cancelled."""
        from sana_cli.request.params import resolve

        with self._turn:
            make_folder(self.folder)
            checkpoint = self.models.open(options.model)
            params = resolve(options, checkpoint)
            self.limits.check([params])
            target = Target(path=self.folder, is_folder=True, is_pattern=False)
            path = output_paths(target, [params], overwrite=False)[0]
            told = _Notices(on_step)
            asked = options.model or self.models.default  # the folder of a name may be any folder's
            chosen = GenerationOptions.of(**{**_said(options), "seed": params.seed, "model": asked})
            result = self._by_a_server(chosen, path, told) or self._here(
                params, checkpoint, path, told
            )
            seconds = round(sum(result.seconds.values()), 2)
            return path, Drawn(
                path=str(path), seed=result.seed, width=result.width, height=result.height,
                model=checkpoint.name, seconds=seconds, notices=told.notices,
            )  # fmt: skip

    def _by_a_server(
        self, options: GenerationOptions, path: Path, told: "_Notices"
    ) -> RemotePicture | None:
        """Draw with a running server; None where there is none or it does not draw this."""
        server = find_server(self.server)
        if server is None:
            return None
        artist = Artist(server, told)
        told.counts_steps = True
        try:
            return next(iter(artist.draw(options, [path], overwrite=False)))
        except Unavailable as error:
            artist.hand_over(error)
            return None
        finally:
            told.counts_steps = False

    def _here(self, params: Any, checkpoint: Any, path: Path, told: "_Notices") -> Any:
        """Draw in this process; the pipeline of the model before this one is closed first."""
        from sana_cli.pipeline import SanaPipeline
        from sana_cli.pipeline.saving import draw_to_file
        from sana_cli.request.runtime import RuntimeOptions
        from sana_cli.system.precision import pick_device

        place = checkpoint.pth or checkpoint.folder  # two models may have one name
        if place not in self._pipelines:
            self.close()
            self._pipelines[place] = SanaPipeline(
                checkpoint, RuntimeOptions(max_memory=self.max_memory), device=pick_device("auto"),
                reporter=told,
            )  # fmt: skip
        pipeline = self._pipelines[place]
        pipeline.components.reporter = told
        return draw_to_file(pipeline, params, path, overwrite=False, on_step=told.on_step)

    def close(self) -> None:
        """Give back the memory of the model."""
        while self._pipelines:
            self._pipelines.popitem()[1].close()


class _Notices:
    """A `Reporter` that collects notices."""

    def __init__(self, on_step: OnStep) -> None:
        self.notices: list[str] = []
        self.on_step = on_step
        self.counts_steps = False  # by the bar of a stage: a server's picture has no other steps

    def notice(self, message: str) -> None:
        self.notices.append(message)

    def stage(self, title: str, total: int | None = None) -> "_Stage":
        counted = self.counts_steps and title == "denoise" and total
        return _Stage(self.on_step if counted else None, total or 0)


class _Stage:
    def __init__(self, on_step: OnStep | None, total: int) -> None:
        self._on_step, self._total, self._done = on_step, total, 0

    def __enter__(self) -> Callable[[], None]:
        return self._advance

    def __exit__(self, *error: object) -> None:
        pass

    def _advance(self) -> None:
        self._done += 1
        if self._on_step is not None and not self._on_step(self._done, self._total):
            raise Cancelled(f"cancelled after step {self._done} of {self._total}")


def _said(options: GenerationOptions) -> dict[str, Any]:
    from sana_cli.config.generation import FIELDS

    return {name: value for name in FIELDS if (value := getattr(options, name)) is not None}


_Prompt = Annotated[str, Field(description="What to draw.")]
_ModelName = Annotated[
    str | None, Field(description="A name of list_models; nothing: the default.")
]
_Side = Annotated[int | None, Field(description="Pixels, a multiple of 32; nothing: the model's.")]
_Steps = Annotated[int | None, Field(ge=1, le=200, description="Nothing: the model's.")]
_Seed = Annotated[int | None, Field(ge=0, le=2**53, description="Nothing: a random one.")]
_Guidance = Annotated[
    float | None, Field(ge=0, le=100, description="How strictly to follow the prompt.")
]
_Negative = Annotated[str | None, Field(description="What to keep out.")]


class _ToolServer(MCPServer[Any]):
    """The SDK's server, which refuses arguments that a tool does not have: the SDK itself drops them."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        for tool in await self.list_tools():
            known = list(tool.input_schema.get("properties", {}))
            unknown = [word for word in arguments if word not in known]
            if tool.name == name and unknown:
                meant = did_you_mean(unknown[0], known)
                hint = f"known: {', '.join(known)}" if known else "send none"
                raise ToolError(
                    in_sentences(f"{name} has no argument {unknown[0][:80]!r}{meant}", hint)
                )
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(f"{name}: {_problem_of(error.__cause__)}") from error
            raise


def _problem_of(error: ValidationError) -> str:
    """Say which argument is of another type or out of range."""
    first = error.errors(include_url=False)[0]
    argument = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{argument} is missing"
    return f"{argument} cannot be {shortened(repr(first['input']))}. {first['msg']}".replace(
        "Input should", "It should"
    )


def make_server(studio: Studio) -> MCPServer[Any]:
    """The server with its three tools."""
    server: MCPServer[Any] = _ToolServer(
        "sana", title="sana", instructions=_INSTRUCTIONS, version=__version__
    )

    @server.tool(structured_output=False)  # a picture, and its facts as text
    async def generate_image(
        prompt: _Prompt, ctx: Context, model: _ModelName = None, width: _Side = None,
        height: _Side = None, steps: _Steps = None, seed: _Seed = None,
        guidance_scale: _Guidance = None, negative_prompt: _Negative = None,
    ) -> list[Any]:  # fmt: skip
        """Draw a picture after a prompt. Returns the picture, and its path, seed and size."""
        return await _drawn(studio, ctx, {
            "prompt": prompt, "model": model, "width": width, "height": height, "steps": steps, "seed": seed,
            "guidance_scale": guidance_scale, "negative_prompt": negative_prompt,
        })  # fmt: skip

    @server.tool(structured_output=False)
    async def edit_image(
        prompt: _Prompt, ctx: Context,
        image: Annotated[str, Field(description="Path of the picture to start from.")],
        mask: Annotated[str | None, Field(description="Path of a mask: only its white is redrawn.")] = None,
        strength: Annotated[float | None, Field(gt=0, le=1, description="Near 0 keeps the picture, 1 ignores it.")] = None,
        model: _ModelName = None, steps: _Steps = None, seed: _Seed = None,
        guidance_scale: _Guidance = None, negative_prompt: _Negative = None,
    ) -> list[Any]:  # fmt: skip
        """Redraw a picture, or the masked part of it, after a prompt. The original stays as it is."""
        return await _drawn(studio, ctx, {
            "prompt": prompt, "image": image, "mask": mask, "strength": strength, "model": model, "steps": steps,
            "seed": seed, "guidance_scale": guidance_scale, "negative_prompt": negative_prompt,
        })  # fmt: skip

    @server.tool()
    async def list_models() -> list[Model]:
        """List the models that are on this machine."""
        served = await anyio.to_thread.run_sync(studio.models.names)
        return [
            Model(name=m.name, is_default=m.name == studio.models.default, native_size=m.native_size, steps=m.steps)
            for m in served
        ]  # fmt: skip

    return server


async def _drawn(studio: Studio, ctx: Context, values: dict[str, Any]) -> list[Any]:
    """Draw in a thread, report every step, and stop after one when the call is cancelled."""
    options = GenerationOptions.of(**{k: v for k, v in values.items() if v is not None})
    stopped = threading.Event()

    def on_step(step: int, steps: int) -> bool:
        anyio.from_thread.run(ctx.report_progress, step, steps)
        return not stopped.is_set()

    try:
        path, drawn = await anyio.to_thread.run_sync(
            partial(studio.draw, options, on_step), abandon_on_cancel=True
        )
    except (Cancelled, anyio.get_cancelled_exc_class()):
        stopped.set()
        raise
    except SanaError as error:
        raise ToolError(in_sentences(error.message, error.hint)) from error
    return [Image(path=path), drawn.model_dump_json()]
