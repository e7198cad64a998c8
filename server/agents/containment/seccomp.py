"""The system calls that a contained agent cannot make, as a filter for `bwrap --seccomp`.

No namespace covers the keys of the session that started the server (`keyctl`): a filter must. It
also takes away what a program that reads files never needs and what others have broken out with:
further namespaces, mounts, other processes' memory, and the kernel's own machinery.
"""

import struct
from typing import NamedTuple

EPERM, ENOSYS = 1, 38
CLONE_NEWUSER = 0x1000_0000
X32 = 0x4000_0000
"""From this number on x86-64 takes calls of another ABI, past a list of numbers."""

# name → its number on x86-64 and on arm64
DENIED = {
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": (155, 41),
    "mount": (165, 40), "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "syslog": (103, 116),
    # Memory that belongs to no process and to no mount, so that no limit would count it.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "msgget": (68, 186),
}  # fmt: skip

# name → its numbers, and which of its arguments is the mode; None where there is no such call
MODES = {
    "chmod": (90, None, 1), "fchmod": (91, 52, 1), "fchmodat": (268, 53, 2),
    "fchmodat2": (452, 452, 2),
}  # fmt: skip
"""An agent's stdout and stderr are files of the server's user: such a file must not become one that
runs as that user."""
SETUID_OR_SETGID = 0o6000


class Machine(NamedTuple):
    audit: int
    """The kernel's name of it."""
    column: int
    """Its place in DENIED."""
    clone: int
    clone3: int


MACHINES = {
    "x86_64": Machine(0xC000_003E, 0, clone=56, clone3=435),
    "aarch64": Machine(0xC000_00B7, 1, clone=220, clone3=435),
}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _AUDIT, _FIRST_ARGUMENT, _ARGUMENT_BYTES = 0, 4, 16, 8
_ALLOW, _ERROR = 0x7FFF_0000, 0x0005_0000


def program(machine: str) -> bytes | None:
    """The filter for a machine as `platform.machine()` names it; None for one that is not known."""
    known = MACHINES.get(machine)
    return b"".join(struct.pack("<HBBI", *step) for step in _steps(known)) if known else None


def _steps(machine: Machine) -> list[tuple[int, int, int, int]]:
    """(code, steps to skip if so, steps to skip if not, value)."""
    refuse, unknown, allow = (
        (_RETURN, 0, 0, value) for value in (_ERROR | EPERM, _ERROR | ENOSYS, _ALLOW)
    )
    steps = [
        (_LOAD, 0, 0, _AUDIT),
        (_EQUAL, 1, 0, machine.audit),
        refuse,
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, X32),
        refuse,
        # Its flags lie in memory, where no filter looks; without it a libc takes `clone`.
        (_EQUAL, 0, 1, machine.clone3),
        unknown,
    ]
    for numbers in DENIED.values():
        steps += [(_EQUAL, 0, 1, numbers[machine.column]), refuse]
    for *by_machine, argument in MODES.values():
        if (number := by_machine[machine.column]) is not None:
            steps += [
                (_EQUAL, 0, 4, number),
                (_LOAD, 0, 0, _FIRST_ARGUMENT + _ARGUMENT_BYTES * argument),
                (_ANY_BIT, 0, 1, SETUID_OR_SETGID),
                refuse,
                allow,
            ]
    return [
        *steps,
        (_EQUAL, 0, 3, machine.clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 1, CLONE_NEWUSER),
        refuse,
        allow,
    ]
