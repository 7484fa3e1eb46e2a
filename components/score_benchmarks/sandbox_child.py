"""Lock this process down, then run one untrusted program: started by sandbox.py, stdlib only.

JSON request on stdin -> lines of JSON on the result pipe: the protections in force, then the
outcome. The program never starts unless the seccomp filter is in place: afterwards the kernel
grants memory, time, and reading and writing what is already open, and refuses everything else
(open, stat, socket, fork, exec, kill, ptrace, mount, …). No file is opened any more, hence
nothing is read, written or imported that was not loaded before.
"""

import ctypes
import importlib
import json
import math
import os
import platform
import resource
import signal
import struct
import sys

# What solutions may import; the filter refuses whatever is not loaded by then.
# fmt: off
PRELOADED = (
    "_strptime", "abc", "array", "ast", "base64", "binascii", "bisect", "calendar", "cmath",
    "collections.abc", "contextlib", "copy", "dataclasses", "datetime", "decimal", "difflib",
    "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "keyword",
    "locale", "math", "numbers", "operator", "pprint", "queue", "random", "re", "statistics",
    "string", "textwrap", "time", "timeit", "types", "typing", "unicodedata", "uuid",
    "warnings", "zlib", "encodings.ascii", "encodings.latin_1", "encodings.utf_16",
    "encodings.unicode_escape",
)
# fmt: on

# System calls that stay allowed: (x86_64, aarch64).
ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "close": (3, 57),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "sched_yield": (24, 124),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "times": (100, 153),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
PR_SET_PDEATHSIG = 1
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def limit_resources(cpu_s: float, memory_mb: int) -> None:
    """Cap processor time, address space, file size, processes and core dumps for good."""
    seconds, num_bytes = math.ceil(cpu_s), memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC):
        resource.setrlimit(kind, (0, 0))


def enter_namespaces() -> bool:
    """Second wall: a user, network and IPC namespace of its own, where the host permits it."""
    return libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) == 0


def forbid_files_with_landlock() -> bool:
    """Second wall: no access to any file (and, from ABI 4, to TCP), where the kernel has it."""
    abi = libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)
    if abi < 1:
        return False
    num_rights = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)
    attributes = struct.pack("=QQ", 2**num_rights - 1, 3 if abi >= 4 else 0)
    size = 16 if abi >= 4 else 8
    ruleset = libc.syscall(LANDLOCK_CREATE_RULESET, attributes, size, 0)
    if ruleset < 0:
        return False
    done = libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return done


def forbid_system_calls() -> str | None:
    """The wall that must stand: a seccomp filter; returns why it could not be put up, or None."""
    if platform.machine() not in ARCHITECTURES or sys.maxsize < 2**32:
        return f"no seccomp filter for the processor {platform.machine()!r}"
    column, audit_architecture = ARCHITECTURES[platform.machine()]
    program = seccomp_program([numbers[column] for numbers in ALLOWED.values()], audit_architecture)
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: number of instructions, padding, pointer to them.
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0) != 0:
        return f"seccomp: {os.strerror(ctypes.get_errno())}"
    return None


def seccomp_program(allowed: list[int], audit_architecture: int) -> bytes:
    """BPF: kill under a foreign architecture, allow the given calls, EPERM for all others."""
    load, jump_equal, give_back = 0x20, 0x15, 0x06
    kill, refuse, allow = 0x80000000, 0x00050000 | 1, 0x7FFF0000
    instructions = [(load, 0, 0, 4), (jump_equal, 1, 0, audit_architecture)]
    instructions += [(give_back, 0, 0, kill), (load, 0, 0, 0)]
    for i, number in enumerate(allowed):
        instructions.append((jump_equal, len(allowed) - i, 0, number))
    instructions += [(give_back, 0, 0, refuse), (give_back, 0, 0, allow)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def main() -> None:
    """Read the request, lock down, run the program, report."""
    results = int(sys.argv[1])
    request = json.loads(sys.stdin.buffer.read())
    for name in PRELOADED:
        importlib.import_module(name)
    os.close(0)
    os.environ.clear()
    refused = None
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        refused = "no_new_privs is refused"
    walls = {"namespaces": enter_namespaces(), "landlock": forbid_files_with_landlock()}
    # After the namespaces: new rights take the setting away. Sleeping costs no processor time, so
    # that nothing else would end a program whose parent was killed.
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    limit_resources(request["cpu_s"], request["memory_mb"])
    refused = refused or forbid_system_calls()
    active = ["seccomp", "limits", *(name for name, stands in walls.items() if stands)]
    os.write(results, json.dumps({"active": active, "refused": refused}).encode() + b"\n")
    if refused:
        os._exit(3)
    outcome = "passed"
    try:
        exec(compile(request["program"], "<program>", "exec"), {"__name__": "__main__"})
    except BaseException as error:  # SystemExit too: leaving before the checks is no pass
        outcome = type(error).__name__
    word = request["nonce"] if outcome == "passed" else ""
    os.write(results, json.dumps({"outcome": outcome, "nonce": word}).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main()
