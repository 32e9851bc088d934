"""What a listing of machine code says about waiting for the kernel before."""

import pytest

from benchmarks.machine_code import waits_first

WAIT, LOAD = "ACQBULK ;", "LDG.E.128 R4, desc[UR4][R2.64] ;"
PARAMETER, SHARED = "LDC R1, c[0x0][0x37c] ;", "ATOMS.OR RZ, [UR5+0x14], R2 ;"


def listing(*lines: str) -> str:
    rows = (
        f"        /*{16 * i:04x}*/  {line:>30}   /* 0x0000df00ff017b82 */"
        for i, line in enumerate(lines)
    )
    return "\tFunction : a_kernel\n" + "\n".join(rows)


@pytest.mark.parametrize(
    "lines",
    [
        (PARAMETER, WAIT, LOAD),
        (PARAMETER, "@P1 BRA 0x20 ;", WAIT, LOAD),
        (SHARED, "@!P0 BRA 0x0 ;", WAIT, LOAD, "BRA 0x60 ;"),
        ("@P0 CALL.REL.NOINC 0x40 ;", WAIT, LOAD, "EXIT ;", "BPT.TRAP 0x1 ;"),
    ],
    ids=["parameters", "a jump to the wait", "shared memory, and a loop", "a trap"],
)
def test_it_waits_first(lines: tuple[str, ...]) -> None:
    assert waits_first(listing(*lines))


@pytest.mark.parametrize(
    "lines",
    [
        (PARAMETER, LOAD),
        (LOAD, WAIT),
        ("@P0 STG.E desc[UR4][R2.64], R3 ;", WAIT, LOAD),
        ("@P0 BRA 0x30 ;", WAIT, LOAD, LOAD),
        ("CALL.REL.NOINC `(a_function) ;", WAIT, LOAD),
    ],
    ids=[
        "it never waits",
        "it reads",
        "it writes",
        "a jump over the wait",
        "a call of what is not known",
    ],
)
def test_it_does_not(lines: tuple[str, ...]) -> None:
    assert not waits_first(listing(*lines))
