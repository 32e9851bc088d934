"""Read registers, spills and the mix of instructions from what Triton compiled."""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_USAGE = re.compile(r"(REG|STACK|LOCAL):(\d+)")
_SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
_GCN = re.compile(r"^\t([a-z]+_\w+)", re.MULTILINE)
_TENSOR_CORES = re.compile(r"(?:[IHQ]MMA|[IHQ]GMMA|OMMA|UTC[IHQO]MMA|V_MFMA)")
# Address, name and operands of each instruction.
_LISTED = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE
)
_WAIT = "ACQBULK"  # griddepcontrol.wait
_MEMORY = re.compile(r"(?:LDG|LDGSTS|STG|LD|ST|ATOMG?|REDG?|UTMA\w+|UBLK\w+)\b")
_JUMP = re.compile(r"(?:BRA|BRX|JMP|JMX|CALL|RET)\b")
_KINDS = (  # first match wins
    ("tensor cores", _TENSOR_CORES),
    ("spills", re.compile(r"(?:STL|LDL)\b|SCRATCH_")),
    (
        "16-byte loads",
        re.compile(r"(?:LDG|LDGSTS)\b.*\.128|(?:GLOBAL|BUFFER)_LOAD_DWORDX4|UTMALDG"),
    ),
    ("narrower loads", re.compile(r"(?:LDG|LDGSTS)\b|(?:GLOBAL|BUFFER)_LOAD")),
    ("16-byte stores", re.compile(r"STG\b.*\.128|(?:GLOBAL|BUFFER)_STORE_DWORDX4")),
    ("narrower stores", re.compile(r"STG\b|(?:GLOBAL|BUFFER)_STORE")),
    ("shared memory", re.compile(r"(?:LDS|LDSM|STS|STSM)\b|DS_")),
    ("barriers", re.compile(r"(?:BAR|WARPSYNC|SYNCS)\b|S_BARRIER")),
)


@dataclass(frozen=True, slots=True)
class MachineCode:
    """Resources of a compiled kernel."""

    registers: int  # a thread
    stack_bytes: int
    spills: int  # instructions
    tensor_cores: list[str]  # names
    mix: dict[str, int]  # instructions by kind, "all" included
    waits_first: bool  # for the kernel before, and then accesses memory


def of_nvidia(cubin: bytes) -> MachineCode:
    """Disassemble a cubin with the tool in Triton's wheel."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (
            subprocess.run(
                [tool, option, file.name], check=True, capture_output=True, text=True
            ).stdout
            for option in (
                "--dump-resource-usage",
                "--dump-sass",
            )  # both at once prints the usage alone
        )
    counts = {name: int(value) for name, value in _USAGE.findall(usage)}
    names = [name for name in _SASS.findall(code) if name != "NOP"]
    stack_bytes = counts["STACK"] + counts["LOCAL"]
    return _described(names, counts["REG"], stack_bytes, waits=waits_first(code))


def of_amd(assembly: str) -> MachineCode:
    """Read the assembly that Triton keeps."""

    def number(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", assembly)
        return int(found[1]) if found else 0

    spilled = number("vgpr_spill_count") * 4
    names = [name.upper() for name in _GCN.findall(assembly)]
    return _described(names, number("vgpr_count"), spilled)


def _described(
    names: Iterable[str], registers: int, stack_bytes: int, *, waits: bool = False
) -> MachineCode:
    mix: Counter[str] = Counter()
    used = set()
    for name in names:
        mix["all"] += 1
        kind = next((kind for kind, pattern in _KINDS if pattern.match(name)), None)
        if kind is not None:
            mix[kind] += 1
        if kind == "tensor cores":
            used.add(name)
    return MachineCode(
        registers, stack_bytes, mix["spills"], sorted(used), dict(mix), waits_first=waits
    )


def waits_first(code: str) -> bool:
    """Return whether a listing's first access of global memory comes after its wait for the kernel before, on every path.

    Until the wait it may jump, as where tensor memory is reserved, but to no address past it, except to a trap.
    """
    listed = [(int(at, 16), name, rest) for at, name, rest in _LISTED.findall(code)]
    names = {at: name for at, name, _ in listed}
    wait = next((at for at, name, _ in listed if name == _WAIT), None)
    if wait is None:
        return False
    for at, name, rest in listed:
        if at >= wait:
            return True
        target = re.search(r"0x([0-9a-f]+)\s*$", rest)
        leaves = _JUMP.match(name) and (target is None or int(target[1], 16) > wait)
        if leaves and target is not None:
            leaves = not names.get(int(target[1], 16), "").startswith("BPT.TRAP")
        if leaves or _MEMORY.match(name):
            return False
    return True
