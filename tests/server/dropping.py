"""Packets that are dropped: what a peer looks like whose cable is cut. It needs no privilege."""

import ctypes
import socket

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("first", ctypes.POINTER(_Instruction)))


def drop_all(peer: socket.socket) -> None:
    """From now on the kernel throws away every packet for this socket before TCP sees it: nothing
    is acknowledged, nothing is answered, and nobody is told."""
    nothing = (_Instruction * 1)(_Instruction(0x06, 0, 0, 0))  # BPF_RET | BPF_K: keep 0 bytes
    program = _Program(1, ctypes.cast(nothing, ctypes.POINTER(_Instruction)))
    peer.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(program))
