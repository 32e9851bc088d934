"""Ask every node before any work whether it can draw this batch: same versions, same model, same output. No torch of its own.

The driver leaves a file in the output with a random name and content. A node that reads it, and can write next to it,
shares the folder.
"""

import platform
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sana_cli import __version__
from sana_cli.cluster.output import UrlOutput
from sana_cli.cluster.sizing import Node
from sana_cli.cluster.worker import Setup, open_model, take_place
from sana_cli.errors import ExitCode, SanaError
from sana_cli.files import check_writable, new_file
from sana_cli.progress import Reporter

_PATIENCE_S = 300.0  # for the first process of a node, which imports Ray and sana; a busy machine takes minutes


@contextmanager
def sign(setup: Setup, folder: Path | None) -> Iterator[dict[str, str]]:
    """Leave a file in the output while the block runs; yields its name and content. Raises SanaError."""
    name, content = f".sana-{secrets.token_hex(8)}.tmp", secrets.token_hex(16)
    if folder is not None:
        path = folder.absolute() / name
        with new_file(path, overwrite=False) as file:
            file.write(content.encode())
        try:
            yield {"name": str(path), "content": content}
        finally:
            path.unlink(missing_ok=True)
        return
    output = UrlOutput(setup.output)
    output.write(content.encode(), name, overwrite=False)
    try:
        yield {"name": name, "content": content}
    finally:
        output.remove(name)


def look(setup: Mapping[str, Any], left: Mapping[str, str]) -> dict[str, Any]:
    """Answer on a node: versions, memory of its GPU, and problems in words. Never raises."""
    answer: dict[str, Any] = {"version": __version__, "python": platform.python_version()}
    own = Setup(**setup)
    try:
        take_place(own.folder, own.environment)
        answer["gpu_memory"] = _gpu_memory()
        _check_output(own, left)
        answer["model"] = _model_problem(own)
    except SanaError as error:
        answer["problem"] = {"message": error.message, "hint": error.hint}
    except Exception as error:  # noqa: BLE001 - an answer is what the driver waits for
        answer["problem"] = {"message": f"{type(error).__name__}: {error}", "hint": ""}
    return answer


def _gpu_memory() -> int | None:
    from sana_cli.system.precision import NamedDevice, foresee_device

    if foresee_device("auto").type != "cuda":
        return None
    from sana_cli.system.memory import free_bytes

    return free_bytes(NamedDevice("cuda"))


def _check_output(setup: Setup, left: Mapping[str, str]) -> None:
    if setup.output:
        found = UrlOutput(setup.output).read(left["name"])
    else:
        path = Path(left["name"])
        found = path.read_bytes() if path.is_file() else None
    where = setup.output or str(Path(left["name"]).parent)
    if found != left["content"].encode():
        raise SanaError(
            f"does not see the output {where}",
            hint="use a folder that all machines share, or a URL: s3://bucket/out/",
        )
    if not setup.output:
        check_writable(Path(left["name"]).with_name(".sana-probe.png"))


def _model_problem(setup: Setup) -> dict[str, Any] | None:
    """Say why the model is not on this node; it may be downloaded then."""
    try:
        open_model(replace(setup, offline=True))
    except SanaError as error:
        return {"message": error.message, "hint": error.hint, "code": int(error.code)}
    return None


def ask_all(ray: Any, nodes: Sequence[Node], setup: Setup, left: Mapping[str, str]) -> list[Any]:
    """Run `look` on every node; its answer, or the error that kept it from answering."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(look)
    asked = [
        remote.options(
            num_cpus=0, num_gpus=1 if node.gpus >= 1 else 0, max_retries=1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node.id, soft=False),
        ).remote(asdict(setup), dict(left))
        for node in nodes
    ]  # fmt: skip
    done, _ = ray.wait(asked, num_returns=len(asked), timeout=_PATIENCE_S)
    answers: list[Any] = []
    for reference in asked:
        if reference not in done:
            ray.cancel(reference, force=True)
            answers.append(TimeoutError(f"no answer within {_PATIENCE_S:.0f} s"))
            continue
        try:
            answers.append(ray.get(reference))
        except Exception as error:  # noqa: BLE001 - reported with its node
            answers.append(error)
    return answers


def judge(
    nodes: Sequence[Node], answers: Sequence[Any], *, offline: bool, model: str, reporter: Reporter
) -> list[Node]:
    """Return the nodes with what they answered. SanaError for the first that cannot draw, naming it."""
    judged, absent = [], []
    for node, answer in zip(nodes, answers, strict=True):
        if isinstance(answer, Exception):
            raise _unfit(node, *_why(answer))
        if answer["version"] != __version__:
            raise _unfit(
                node,
                f"has sana {answer['version']}, this machine {__version__}",
                "install the same version on all machines",
            )
        if problem := answer.get("problem"):
            raise _unfit(node, problem["message"], problem["hint"])
        if problem := answer.get("model"):
            if offline or "other files" in problem["message"] or Path(model).is_absolute():
                raise _unfit(node, f"cannot open the model: {problem['message']}", problem["hint"])
            absent.append(node.name)
        judged.append(replace(node, gpu_memory=answer.get("gpu_memory")))
    if absent:
        reporter.notice(
            f"{model} is not yet on {', '.join(absent)}, and is downloaded there; "
            "HF_HOME in a folder that all machines share avoids that"
        )
    return judged


def _why(error: Exception) -> tuple[str, str]:
    text = " ".join(str(error).split())
    if "No module named 'sana_cli" in text:
        return "has no sana", "install sana on all machines, in the environment that Ray runs in"
    if "No module named" in text or "ImportError" in text:
        return (
            f"has another installation: {text[-200:]}",
            "install the same packages on all machines",
        )
    return f"does not answer: {text[:200] or type(error).__name__}", "look at `ray status`"


def _unfit(node: Node, problem: str, hint: str) -> SanaError:
    return SanaError(f"node {node.name} {problem}", hint=hint, code=ExitCode.ENVIRONMENT)
