"""Name models that another program quantized, before anything is read: a new copy would be the
same.

Each program leaves its own tensors next to the weights or instead of them, and some leave a key in
`config.json`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from quant.dtypes import FLOATS
from sana_cli.checkpoints.model_files import read_json
from sana_cli.errors import checkpoint_error

_REMEDY = "use the model's release in fp32, bf16 or fp16; `sana quantize` makes it small"
# Parts of tensor names -> the program; the first that is found counts.
_MARKS = (
    ((".absmax", ".quant_map", ".quant_state.", ".SCB"), "bitsandbytes"),
    (("._data", "._scale", "._shift"), "quanto"),
    ((":qdata", "_weight_qdata"), "torchao"),
    ((".wscales", ".smooth_factor"), "Nunchaku"),
    ((".qzeros", ".g_idx"), "GPTQ or AWQ"),
    ((".weight_packed", ".weight_scale_inv", ".weight_scale"), "compressed-tensors"),
    ((".scale_weight", ".scale_input", "scaled_fp8"), "a program for scaled fp8"),
    ((".comfy_quant",), "ComfyUI"),
)


def refuse_config(folder: Path) -> None:
    """SanaError where the `config.json` of a part says that another program has quantized it."""
    path = folder / "config.json"
    found = read_json(path).get("quantization_config") if path.is_file() else None
    if found is not None:
        said = found.get("quant_method") if isinstance(found, dict) else None
        _refuse(folder, str(said or "another program")[:40])


def refuse_tensors(folder: Path, headers: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """SanaError where the tensors of a part, name -> (dtype, shape), are those of another program."""
    program = _program(headers)
    if program is not None:
        _refuse(folder, program)
    if any(name.endswith(".qweight") for name in headers):
        raise checkpoint_error(
            f"{folder} is quantized, and the manifest.json that describes it is missing",
            hint="copy the whole folder again, or quantize the model again",
        )
    for name, (dtype, shape) in headers.items():
        if name.endswith(".weight") and len(shape) > 1 and dtype not in FLOATS:
            raise checkpoint_error(
                f"{folder}: {name} is stored in {dtype}, which is not a type that Sana computes in",
                hint=_REMEDY,
            )


def _program(names: Iterable[str]) -> str | None:
    together = "\n".join(names)  # one search for each mark, not one for each mark and name
    return next((program for marks, program in _MARKS if any(m in together for m in marks)), None)


def _refuse(folder: Path, program: str) -> None:
    raise checkpoint_error(
        f"{folder} was quantized by {program}, in a format that sana does not read", hint=_REMEDY
    )
