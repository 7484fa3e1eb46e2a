"""Plant the mistakes that have bitten well-known projects, one by one, and see the tests fail.

    python benchmarks/planted_mistakes.py [--only N …] [--table FILE]

Copies the project to a temporary folder, runs the named tests there as they are (they must pass),
then applies one mistake of planted_mistakes.toml at a time and runs its tests: every one of them
must fail. N is a pitfall's number (0: unusable inputs). Ends with 1 when a mistake goes unnoticed,
with 2 when the table no longer fits the code. Needs fork, hence Linux or macOS.
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".toml")
NOT_COPIED = (".*", "runs", "build", "__pycache__", "*.egg-info")


@dataclass(frozen=True)
class Mistake:
    """A one-place edit that makes the code wrong, and the tests that must notice."""

    pitfall: int
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def read_table(path: Path = TABLE) -> list[Mistake]:
    """Mistakes in the order of the table, whose pitfalls rise."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["mistake"]
    return [Mistake(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def misfits(mistakes: Sequence[Mistake], root: Path = ROOT) -> list[str]:
    """What in the table no longer fits the code: texts not found (once), tests that are gone."""
    found: list[str] = []
    for m in mistakes:
        number = (root / m.file).read_text(encoding="utf-8").count(m.old)
        if number != 1:
            found.append(f"{m.pitfall} {m.what}: its old text occurs {number} times in {m.file}")
        for test in m.tests:
            path, _, name = test.partition("::")
            name = name.partition("[")[0]
            if f"def {name}(" not in (root / path).read_text(encoding="utf-8"):
                found.append(f"{m.pitfall} {m.what}: {path} has no {name}")
    return found


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit code of pytest and what it said, in a fork that has torch imported already."""
    log = copy / "pytest.log"
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, log.read_text(encoding="utf-8", errors="replace")
    code = 3
    try:
        with log.open("w") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        os.environ["PYTHONPATH"] = str(copy)
        import pytest

        options = ["-q", "-rfE", "--tb=line", "-p", "no:xdist", "-p", "no:cacheprovider"]
        # Explaining why two files of weights differ would take minutes.
        options += ["--assert=plain"]
        code = int(pytest.main([*options, *tests]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def unnoticed_by(m: Mistake, copy: Path) -> tuple[list[str], str]:
    """Named tests that do not fail although the mistake is planted, and what pytest said."""
    path = copy / m.file
    sound = path.read_text(encoding="utf-8")
    path.write_text(sound.replace(m.old, m.new), encoding="utf-8")
    try:
        code, said = run_tests(copy, m.tests)
    finally:
        path.write_text(sound, encoding="utf-8")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    if code != 1:
        return list(m.tests), said
    return [t for t in m.tests if not any(f == t or f.startswith(f"{t}[") for f in failed)], said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", help="numbers of pitfalls; default: all")
    parser.add_argument("--table", type=Path, default=TABLE, help="another table of mistakes")
    arguments = parser.parse_args()
    only = arguments.only
    mistakes = [m for m in read_table(arguments.table) if not only or m.pitfall in only]
    if stale := misfits(mistakes):
        print("the table no longer fits the code:", *stale, sep="\n  ")
        return 2
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    import deepspeed  # noqa: F401  (forks have it then)
    from transformers import LlamaForCausalLM  # noqa: F401

    num_unnoticed = 0
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        code, said = run_tests(copy, sorted({test for m in mistakes for test in m.tests}))
        if code:
            print(f"the tests fail before anything is planted:\n{said[-3000:]}")
            return 2
        for m in mistakes:
            started = time.monotonic()
            missed, said = unnoticed_by(m, copy)
            seconds = time.monotonic() - started
            num_unnoticed += bool(missed)
            outcome = "UNNOTICED" if missed else "caught"
            print(f"{m.pitfall:>2}  {outcome:<9} {seconds:5.1f} s  {m.what}", flush=True)
            for test in m.tests:
                print(f"        {'passes: ' if test in missed else ''}{test.rpartition('/')[2]}")
            if missed:
                print("        " + "\n        ".join(said.strip().splitlines()[-5:]))
    print(f"{len(mistakes) - num_unnoticed} of {len(mistakes)} planted mistakes were caught")
    return int(num_unnoticed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
