"""Check by doing whether this machine works, and say what to do about each problem.

Every check is a function that yields findings. One that breaks is a finding itself: this is what
people run when something is broken.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sana_cli import __version__
from sana_cli.checkpoints.hub_environment import bad_variables, proxies
from sana_cli.config.choices import parse_bytes
from sana_cli.errors import SanaError
from sana_cli.system import cpu
from sana_cli.system.packages import install_again, pip_install
from sana_cli.system.redact import without_secrets
from sana_cli.text import counted, readable_bytes, readable_memory

if TYPE_CHECKING:
    import torch

    from quant.backends.measurement import Measurement, Probe
    from sana_cli.config.user_settings import UserSettings

State = Literal["ok", "note", "problem"]
_ROOM_BYTES = 10**10  # the smallest published model and some space to work
_TEXT_ENCODER_FP32_BYTES = 10.5e9
_DRAW_SIDE = 64  # pixels
_DIGESTS_S = 3.0  # for reading downloaded files
_DISK_BYTES_PER_S = 5e8  # of a usual disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of a check. A problem always has a remedy."""

    topic: str
    state: State = "ok"
    text: str
    remedy: str = ""
    facts: Mapping[str, Any] = field(
        default_factory=dict
    )  # the numbers and names in the text, for programs


Check = Callable[[], Iterator[Finding]]


def examine(
    checks: Mapping[str, Check], begin: Callable[[str], None] = lambda topic: None
) -> Iterator[Finding]:
    """Yield all findings, each as soon as it is known. `begin` is called with a topic before it is checked."""
    for topic, check in checks.items():
        begin(topic)
        try:
            for finding in check():
                yield replace(
                    finding,
                    text=without_secrets(finding.text),
                    remedy=without_secrets(finding.remedy),
                )
        except (SanaError, OSError, RuntimeError, ImportError, ValueError) as error:
            hint = error.hint if isinstance(error, SanaError) else ""
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            yield Finding(
                topic=topic, state="problem", text=without_secrets(f"broken: {reason}"),
                remedy=hint or install_again(),
            )  # fmt: skip


def _versions() -> Iterator[Finding]:
    yield Finding(
        topic="versions",
        facts={"sana": __version__, "python": platform.python_version()},
        text=f"sana {__version__}, Python {platform.python_version()}, {platform.platform()}",
    )
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("sana-cli") or []]
    except metadata.PackageNotFoundError:
        yield Finding(
            topic="versions", state="note", text="runs from a checkout: versions are not compared"
        )
        return
    found = []
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = ""
        if version and requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version}")
        else:
            yield Finding(
                topic="versions", state="problem",
                text=f"{requirement.name} is {version or 'missing'}, tried are {requirement.specifier}",
                remedy=pip_install(requirement.name),
            )  # fmt: skip
    yield Finding(
        topic="versions", text=", ".join(found), facts=dict(each.split(" ", 1) for each in found)
    )


def _processor() -> Iterator[Finding]:
    import torch

    from quant.backends.attempt import Failure
    from quant.native import library
    from sana_cli.bench.machine import machine
    from sana_cli.loading.load import native_folder
    from sana_cli.system.precision import cpu_has_fast_bf16
    from sana_cli.system.processor import best_threads

    facts = machine()
    count, load = cpu.cores(), cpu.load()
    busy = "" if load is None else f", load {load:.1f}"
    yield Finding(
        topic="cpu",
        facts={**facts, "cores": count, "load": load},
        text=f"{facts['cpu']}, {counted(count, 'core')}{busy}, "
        f"{', '.join(facts['instructions']) or 'no vector instructions known'}",
    )
    if crowded := cpu.crowded():
        yield Finding(topic="cpu", state="note", text=crowded, remedy=cpu.remedy())
    threads = torch.get_num_threads()
    # Fewer than all where a quota or slow cores ask for it.
    if threads * 2 < (best_threads() or count):
        yield Finding(
            topic="cpu", state="note", text=f"torch uses {threads} of {counted(count, 'core')}",
            remedy="unset OMP_NUM_THREADS, or set it higher",
        )  # fmt: skip
    if not cpu_has_fast_bf16():
        yield Finding(
            topic="cpu", state="note", text="no bf16 instructions: models run in fp32 here",
            remedy="quantized models are faster: sana quantize MODEL",
        )  # fmt: skip
    if library.is_for_this_processor():
        found = library.find_library(native_folder())
        if isinstance(found, Failure):
            yield Finding(
                topic="cpu", state="note",
                text=f"our C code is not compiled ({found.reason}): torch's operations run instead, which take longer",
                remedy="install a C compiler: apt install gcc libc6-dev, or your system's way",
            )  # fmt: skip


def _gpu() -> Iterator[Finding]:
    import torch

    driver = _nvidia_smi()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            yield Finding(
                topic="gpu",
                facts={
                    "device": f"cuda:{index}",
                    "name": facts.name,
                    "free_bytes": free,
                    "total_bytes": total,
                },
                text=f"cuda:{index} {facts.name}, compute capability {facts.major}.{facts.minor}, "
                f"{readable_bytes(free)} of {readable_bytes(total)} free, "
                f"driver {driver or 'unknown'}, "
                + (
                    f"CUDA {torch.version.cuda}"
                    if torch.version.cuda
                    else f"ROCm {torch.version.hip}"
                ),
            )
            yield from gpu_limits((facts.major, facts.minor), rocm=torch.version.hip is not None)
        return
    if torch.backends.mps.is_available():
        yield Finding(
            topic="gpu", facts={"device": "mps"},
            text="Apple GPU (mps): plain PyTorch in fp32 draws; the engine and our kernels are for CUDA",
        )  # fmt: skip
        return
    if torch.xpu.is_available():
        yield Finding(
            topic="gpu", state="note", facts={"device": "xpu", "name": torch.xpu.get_device_name(0)},
            text=f"Intel GPU ({torch.xpu.get_device_name(0)}) is not used; pictures are drawn on the CPU",
            remedy="`sana bench --compare openvino` shows what OpenVINO makes of it",
        )  # fmt: skip
        return
    if driver and torch.version.cuda is None:
        yield Finding(
            topic="gpu", state="problem",
            text=f"there is an NVIDIA driver ({driver}), but torch {torch.__version__} is built without CUDA",
            remedy=f"{pip_install('torch', again=True)} (without the cpu index)",
        )  # fmt: skip
    elif driver:
        yield Finding(
            topic="gpu", state="problem",
            text=f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use driver {driver}",
            remedy="install a newer NVIDIA driver, and look whether CUDA_VISIBLE_DEVICES hides the GPU",
        )  # fmt: skip
    else:
        yield Finding(
            topic="gpu", state="note", text="none that can be used; pictures are drawn on the CPU"
        )


def gpu_limits(capability: tuple[int, int], *, rocm: bool) -> Iterator[Finding]:
    """Report what a GPU that torch can use does without: by its compute capability, or for AMD's as one."""
    if rocm:
        yield Finding(
            topic="gpu", state="note",
            text="AMD: our own kernels are compared with plain PyTorch before they are used, but none has been measured "
            "here; f8a8 models run in plain PyTorch",
            remedy="if something goes wrong, draw with --backend reference, and report it",
        )  # fmt: skip
    elif capability < (8, 0):
        yield Finding(
            topic="gpu", state="note",
            text="no bf16 in hardware before compute capability 8.0: bf16 models, text encoders and decoders "
            "run in fp32, without our own kernels; w8a8 models are multiplied by cuBLAS",
            remedy="use a model for fp16: sana-0.6b or sana-1.6b-fp16",
        )  # fmt: skip
    elif capability < (8, 9):
        yield Finding(
            topic="gpu",
            text="no 8-bit floats before compute capability 8.9: f8a8 models run in plain PyTorch; w8a8 is the faster one",
        )


def _nvidia_smi() -> str:
    """The driver's version, or empty."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().partition("\n")[0]


def _memory() -> Iterator[Finding]:
    import torch

    from sana_cli.system.memory import free_bytes

    free = free_bytes(torch.device("cpu"))
    if free is None:
        yield Finding(topic="memory", state="note", text="the system does not say how much is free")
        return
    yield Finding(topic="memory", text=f"{readable_bytes(free)} free", facts={"free_bytes": free})
    if free < _TEXT_ENCODER_FP32_BYTES and not torch.cuda.is_available():
        yield Finding(
            topic="memory", state="note",
            text=f"the text encoder of a published model takes {readable_bytes(int(_TEXT_ENCODER_FP32_BYTES))} in fp32",
            remedy="a quantized model takes a fraction: sana quantize MODEL --samples 0",
        )  # fmt: skip


def _kernels(probe: "Probe | None" = None) -> Iterator[Finding]:
    """Run the kernels that may be chosen for every scheme on a layer of a usual size, and compare them with the reference."""
    import torch

    from quant.backends.dispatch import usable_kernels
    from quant.backends.measurement import measure, probe_layers
    from sana_cli.system.precision import pick_device

    device = pick_device("auto")
    for kind, layer in probe_layers(device, probe):
        results = measure(layer, device, usable_kernels(layer, device), probe=probe)
        yield from kernel_findings(kind, device, results)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def kernel_findings(
    kind: str, device: "torch.device", results: Sequence["Measurement"]
) -> Iterator[Finding]:
    """Report what was measured for one kind of layer: the times, then each kernel that is not used."""
    good = sorted((m for m in results if m.seconds is not None), key=lambda m: m.seconds or 0)
    times = [f"{_name_of(m)} {(m.seconds or 0) * 1000:.1f} ms" for m in good]
    clock = " of CPU time" if device.type == "cpu" else ""
    measured = {_name_of(m): m.seconds for m in good}
    yield Finding(
        topic="kernels", text=f"{kind} on {device}: {', '.join(times)}{clock}",
        facts={"kind": kind, "device": str(device), "seconds": measured},
    )  # fmt: skip
    for failed in (m for m in results if m.seconds is None):
        yield Finding(
            topic="kernels", state="note",
            text=f"{kind}: {_name_of(failed)} is not used: {failed.note}",
        )  # fmt: skip
    ours = [m for m in results if m.backend == "native"]  # none for weights of 8 bits alone
    if device.type == "cuda" and ours and not any(m in good for m in ours):
        yield Finding(
            topic="kernels", state="problem", text=f"{kind}: our own kernel does not run here",
            remedy=f"{pip_install('triton')} (Windows: triton-windows); it needs gcc and Python's headers",
        )  # fmt: skip


def _name_of(measurement: "Measurement") -> str:
    """Backend and kernel; of the reference, which is both, one word."""
    return " ".join(dict.fromkeys((measurement.backend, measurement.kernel)))


def _drawing() -> Iterator[Finding]:
    """Draw with one step of the built-in model, from the prompt to a file."""
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.config.generation import BUILTIN, GenerationOptions
    from sana_cli.pipeline.pipeline import SanaPipeline
    from sana_cli.request.params import resolve
    from sana_cli.system.precision import pick_device

    checkpoint, device = open_checkpoint(BUILTIN), pick_device("auto")
    started = time.perf_counter()
    request = GenerationOptions(
        prompt="a cat", width=_DRAW_SIDE, height=_DRAW_SIDE, steps=1, seed=0
    )
    with (
        tempfile.TemporaryDirectory(prefix="sana-doctor-") as folder,
        SanaPipeline(checkpoint, device=device, expects="one") as pipeline,
    ):
        pipeline(resolve(request, checkpoint)).save(Path(folder) / "a.png")
    yield Finding(
        topic="drawing",
        text=f"the built-in model draws on {device} in {pipeline.components.dtypes}: loaded, and one step of "
        f"{_DRAW_SIDE}x{_DRAW_SIDE} pixels, in {time.perf_counter() - started:.1f} s",
    )


def _disk() -> Iterator[Finding]:
    from sana_cli.checkpoints import hub_cache
    from sana_cli.config.places import cache_folder, models_folder

    for what, folder, option in (
        ("downloads", hub_cache.root(), "HF_HOME"), ("quantized models", models_folder(), "SANA_MODELS"),
        ("caches", cache_folder(), "SANA_CACHE"), ("pictures", Path.cwd(), "--output"),
    ):  # fmt: skip
        there, refused = hub_cache.existing_parent(folder), _why_unwritable(folder)
        free = shutil.disk_usage(there).free
        text = f"{readable_bytes(free)} free for {what} in {folder}"
        facts = {"use": what, "folder": str(folder), "free_bytes": free}
        if not there.is_dir():
            yield Finding(
                topic="disk", state="problem", text=f"{there} is no folder: no {what}",
                remedy=f"remove it, or set {option} to a folder",
            )  # fmt: skip
        elif refused:
            yield Finding(
                topic="disk", state="problem", text=f"{folder} cannot be written ({refused}): no {what}",
                remedy=f"look at its permissions and its disk, or set {option} to another folder",
            )  # fmt: skip
        elif what == "downloads" and free < _ROOM_BYTES:
            yield Finding(
                topic="disk", state="problem", text=text,
                remedy=f"a published model needs {readable_bytes(_ROOM_BYTES)}: `sana remove`, or HF_HOME on another disk",
            )  # fmt: skip
        else:
            yield Finding(topic="disk", text=text, facts=facts)


def _why_unwritable(folder: Path) -> str:
    """Try to write where the folder is or would be made; say why that fails, or return "".

    Permissions alone do not say: root passes them, and a disk may be read-only, full or of the kernel's own.
    """
    from sana_cli.checkpoints.hub_cache import existing_parent

    try:
        if folder.is_symlink():
            folder.stat()  # of links in a circle, or of one that leads nowhere
        tempfile.TemporaryDirectory(prefix=".sana-doctor-", dir=existing_parent(folder)).cleanup()
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def _models() -> Iterator[Finding]:
    from sana_cli.checkpoints.installed import listed_models, total_bytes
    from sana_cli.checkpoints.opening import open_if_here

    listed = listed_models()
    here = [model for model in listed if model.state in ("downloaded", "quantized")]
    names = [model.name for model in here]
    total = total_bytes()
    on_disk = f"; {readable_bytes(total)} on disk" if total else ""
    yield Finding(
        topic="models", facts={"names": names, "total_bytes": total},
        text=f"{', '.join(names) or 'none but those that come with sana'}{on_disk}",
    )  # fmt: skip
    for model in here:
        if model.note.startswith("unreadable"):  # reported below
            continue
        try:
            open_if_here(model.name)
        except SanaError as error:
            yield Finding(
                topic="models", state="problem",
                text=f"{model.name} cannot be drawn with: {error.message}", remedy=error.hint,
            )  # fmt: skip
    for model in listed:
        if model.state == "partly downloaded":
            yield Finding(
                topic="models", state="problem",
                text=f"{model.name} is only partly downloaded ({readable_bytes(model.size_bytes)})",
                remedy=f"`sana pull {model.name}` resumes the download, `sana remove {model.name}` deletes it",
            )  # fmt: skip
        elif model.problem:
            yield Finding(
                topic="models", state="problem", text=f"{model.name} is {model.problem}",
                remedy=f"`sana remove {model.name}`, and quantize it again",
            )  # fmt: skip
    yield from _digests([model.name for model in here if model.state == "downloaded"])


def _digests(names: list[str], *, seconds: float = _DIGESTS_S) -> Iterator[Finding]:
    """Compare downloaded files with the hub's digests; those that changed last first, as far as `seconds` allow."""
    from sana_cli.checkpoints.hub_snapshot import verify
    from sana_cli.config.variants import find_variant

    end = time.monotonic() + seconds
    for name in names:
        variant = find_variant(name)
        verdict = verify(
            variant.repo if variant else name,
            weight_variant=variant.weight_variant if variant else None,
            keep_on=lambda size: time.monotonic() + size / _DISK_BYTES_PER_S < end,
        )
        if verdict is None:
            continue
        for file in verdict.damaged:
            yield Finding(
                topic="models", state="problem", text=f"{name}: {file} is damaged",
                remedy=f"`sana pull {name}` fetches it again",
            )  # fmt: skip
        sound = counted(len(verdict.sound), "file")
        if verdict.unchecked:
            yield Finding(
                topic="models", state="note",
                text=f"{name}: {sound} as the hub announced them, {len(verdict.unchecked)} not read",
                remedy=f"`sana pull {name} --verify` reads all",
            )  # fmt: skip
        elif not verdict.damaged:
            yield Finding(topic="models", text=f"{name}: {sound} as the hub announced them")


def _settings() -> Iterator[Finding]:
    from sana_cli.checkpoints.model_names import lasting_name
    from sana_cli.checkpoints.opening import open_if_here
    from sana_cli.config.places import config_path
    from sana_cli.config.user_settings import preferences, unknown_variables

    for problem in unknown_variables():
        yield Finding(topic="settings", state="problem", text=problem, remedy="unset or rename it")
    chosen = preferences()
    said = ", ".join(f"{key} from {source}" for key, source in chosen.sources.items())
    yield Finding(topic="settings", text=said or f"none are made ({config_path()})")
    if chosen.options.model:
        open_if_here(lasting_name(chosen.options.model))
    if chosen.options.max_memory:
        yield from _cap(chosen, parse_bytes(chosen.options.max_memory))


def _hub() -> Iterator[Finding]:
    """Check what the hub's libraries take from the environment. Nothing is asked: doctor works
    without a network.
    """
    bad = bad_variables()
    for variable in bad:
        yield Finding(
            topic="hub", state="problem", text=f"{variable.name} {variable.problem}",
            remedy=f"{variable.remedy}, or unset it",
        )  # fmt: skip
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    through = ", ".join(f"{name} {value}" for name, value in proxies().items())
    if not bad:
        yield Finding(
            topic="hub",
            text=f"{address}{f', through {through}' if through else ''} (not contacted)",
        )
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    if offline.lower() in ("1", "true", "yes", "on"):
        yield Finding(
            topic="hub", state="note", text="HF_HUB_OFFLINE is set: nothing can be downloaded",
            remedy="unset HF_HUB_OFFLINE",
        )  # fmt: skip


def _cap(chosen: "UserSettings", cap: int) -> Iterator[Finding]:
    """Compare the setting max_memory with this machine's memory and what the usual model takes."""
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.config.generation import GenerationOptions
    from sana_cli.memory.planner import choose_for
    from sana_cli.request.params import resolve
    from sana_cli.request.runtime import runtime_of
    from sana_cli.system.memory import total_bytes
    from sana_cli.system.precision import foresee_device, plan_dtypes

    options = GenerationOptions(prompt="a cat").over(chosen.options)
    device = foresee_device(options.device or "auto")
    total = total_bytes(device)
    if total is not None and cap > total:
        yield Finding(
            topic="settings", state="note",
            text=f"max_memory {chosen.options.max_memory} is more than there is: {readable_memory(total)} on {device.type}",
            remedy="a cap above what is free keeps nothing free: set a lower one, or none",
        )  # fmt: skip
    try:
        checkpoint = open_checkpoint(options.model_or_builtin, offline=True)
    except SanaError:
        return  # not downloaded yet
    params, runtime = resolve(options, checkpoint), runtime_of(options, checkpoint)
    dtypes = plan_dtypes(runtime.precision, checkpoint.trained_precision, device)
    try:
        choice = choose_for(
            checkpoint, runtime, params, dtypes, device,
            cap_source=options.sources.get("max_memory", ""), several=False, text_is_cached=False,
        )  # fmt: skip
    except SanaError as error:
        text = f"{checkpoint.name}: {error.message}"
        yield Finding(topic="settings", state="problem", text=text, remedy=error.hint)
    else:
        yield Finding(topic="settings", text=f"{checkpoint.name}: {choice}")


def _terminal() -> Iterator[Finding]:
    kind = "a terminal" if sys.stdout.isatty() else "no terminal"
    colours = "without colours (NO_COLOR)" if os.environ.get("NO_COLOR") else "with colours"
    size = shutil.get_terminal_size()
    yield Finding(
        topic="terminal",
        text=f"{kind}, {os.environ.get('TERM', 'unknown')}, {size.columns}x{size.lines}, {colours}, "
        f"{sys.stdout.encoding}",
    )


CHECKS: dict[str, Check] = {
    "versions": _versions,
    "settings": _settings,
    "hub": _hub,
    "terminal": _terminal,
    "disk": _disk,
    "models": _models,
    "cpu": _processor,
    "gpu": _gpu,
    "memory": _memory,
    "kernels": _kernels,
    "drawing": _drawing,
}
