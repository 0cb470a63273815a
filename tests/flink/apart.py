"""Runs a command in a network of its own that has loopback alone, where the machine allows one.

    python -m tests.flink.apart COMMAND …

Flink listens where it is told to, but Beam's job server, its workers and Prism listen on every interface.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # sched.h: CLONE_NEW…
_SET_FLAGS, _UP = 0x8914, 1  # SIOCSIFFLAGS, IFF_UP


def main(command: Sequence[str]) -> None:
    """Becomes the command."""
    try:
        leave_networks()
        print("network: loopback alone", file=sys.stderr)
    except OSError as error:
        why = f"({error.strerror}): Beam's servers listen on every interface"
        print(f"network: this machine's own, as it allows no other {why}", file=sys.stderr)
    os.execvp(command[0], command)


def leave_networks() -> None:
    """Moves this process into a network of its own and turns loopback on there.

    Raises:
      OSError: The system does not know or does not allow that.
    """
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        raise OSError(0, "no Linux")
    # Whoever is not root may have a network in a user namespace, where the machine allows those.
    if libc.unshare(_NEW_NETWORK if user == 0 else _NEW_NETWORK | _NEW_USER) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14s", b"lo", _UP, b""))


def has_loopback_alone() -> bool:
    """Whether this process sees no network but loopback."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


if __name__ == "__main__":
    main(sys.argv[1:])
