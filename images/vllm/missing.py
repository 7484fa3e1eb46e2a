"""Pins on stdin -> the pins of packages that this Python does not have yet, on stdout."""

import re
import sys
from importlib.metadata import distributions


def canonical(name: str) -> str:
    """Name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


there = {canonical(d.metadata["Name"]) for d in distributions()}
for line in sys.stdin:
    if canonical(re.split(r"[=; ]", line)[0]) not in there:
        print(line, end="")
