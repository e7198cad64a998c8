"""The filter of system calls, run here as the kernel runs it, for both machines that it knows."""

import struct

import pytest

from server.agents.containment.seccomp import (
    CLONE_NEWUSER,
    DENIED,
    MACHINES,
    MODES,
    Machine,
    program,
)

ALLOW, EPERM, ENOSYS = 0x7FFF_0000, 0x0005_0001, 0x0005_0026
SIGCHLD = 17
READ, CLONE = {"x86_64": 0, "aarch64": 63}, {"x86_64": 56, "aarch64": 220}
OTHER = {"x86_64": 0x4000_0003, "aarch64": 0x4000_0028}
"""The same processor's older calls: i386 and arm."""


def verdict(
    machine: str, number: int, *more: int, audit: int | None = None, argument: int = 0
) -> int:
    """What the kernel does with one call: linux/seccomp.h, and classic BPF's five steps."""
    audit = MACHINES[machine].audit if audit is None else audit
    call = struct.pack("<IIQ3Q", number, audit, 0, *(argument, *more, 0, 0)[:3])
    code = program(machine)
    assert code is not None
    steps = list(struct.iter_unpack("<HBBI", code))
    at, accumulator = 0, 0
    while True:
        operation, yes, no, value = steps[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", call, value)
            case 0x06:
                return int(value)
            case _:
                holds = {
                    0x15: accumulator == value,
                    0x35: accumulator >= value,
                    0x45: bool(accumulator & value),
                }[operation]
                at += yes if holds else no


@pytest.mark.parametrize("machine", MACHINES)
def test_what_a_reader_needs_is_allowed_and_the_rest_is_not(machine: str) -> None:
    known: Machine = MACHINES[machine]
    assert verdict(machine, READ[machine]) == ALLOW
    for numbers in DENIED.values():
        assert verdict(machine, numbers[known.column]) == EPERM
    denied = {numbers[known.column] for numbers in DENIED.values()} | {known.clone3}
    assert len(denied) == len(DENIED) + 1, "no number stands twice"
    for number in set(range(460)) - denied:
        assert verdict(machine, number) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("call", MODES)
def test_no_file_becomes_one_that_runs_as_its_owner(machine: str, call: str) -> None:
    *numbers, place = MODES[call]
    number = numbers[MACHINES[machine].column]
    if number is None:
        return
    before = [0o7777] * (place - 1)
    assert verdict(machine, number, *before, 0o755, argument=0o7777) == ALLOW
    assert verdict(machine, number, *before, 0o1777) == ALLOW
    for mode in (0o4755, 0o2755, 0o6000):
        assert verdict(machine, number, *before, mode) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_a_new_process_is_allowed_and_a_new_user_is_not(machine: str) -> None:
    assert verdict(machine, CLONE[machine], argument=SIGCHLD) == ALLOW
    assert verdict(machine, CLONE[machine], argument=CLONE_NEWUSER | SIGCHLD) == EPERM
    assert verdict(machine, MACHINES[machine].clone3) == ENOSYS, "a libc then takes clone"


@pytest.mark.parametrize("machine", MACHINES)
def test_no_other_way_to_call_is_left(machine: str) -> None:
    assert verdict(machine, READ[machine], audit=OTHER[machine]) == EPERM
    assert verdict(machine, 0x4000_0000) == EPERM, "the numbers of x32"


def test_a_machine_that_is_not_known_has_no_filter() -> None:
    assert program("riscv64") is None
