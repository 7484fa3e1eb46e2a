"""Processes that the kernel ends with the one that started them, even if that is killed with -9.

A command -> the same command, begun through this file: it asks Linux for SIGKILL at its parent's
death (PR_SET_PDEATHSIG) and becomes the command. Elsewhere it only becomes the command.

Not by `preexec_fn`, which runs Python between fork and exec and may hang where there are threads.
Linux counts the *thread* that started a process as its parent, so that one has to outlive it; the
setting survives exec, and not fork: each generation has to ask by itself. Imports nothing of ours.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def ended_with_this(command: Sequence[str]) -> list[str]:
    """The command to start instead of `command`, so that it ends with this process."""
    # -I, -S: no environment, no site-packages; they cost most of an interpreter's start.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; does nothing but on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def main(parent: str, *command: str) -> None:
    """Become the command, unless the parent died before the kernel was asked."""
    end_with_parent()
    if os.getppid() != int(parent):
        sys.exit(f"{command[0]}: not started: the process that asked for it has ended")
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; commands do not
        signal.signal(number, signal.SIG_DFL)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
