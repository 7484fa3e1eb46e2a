"""A stage's run, and checkpoints of it that hold one small file."""

from contextlib import ExitStack
from typing import Any

from equilibrate_core.artifacts import StageRun
from equilibrate_core.checkpoints import Checkpoints


def run_of(**changes: Any) -> StageRun:
    fixed: dict[str, Any] = {
        "stage": "train_scorer",
        "config": {"kind": "cost", "training": {"epochs": 1, "checkpoint_keep": 2}},
        "seed": 0,
        "code_version": "code",
        "inputs": {"pairs": "digest"},
    }
    return StageRun(**(fixed | changes))


def write_checkpoint(checkpoints: Checkpoints, name: str, *, step: int = 1) -> None:
    draft = checkpoints.store.draft(name)
    (draft / "file").write_text(name)
    checkpoints._publish(draft, name, step, {})


def newest(checkpoints: Checkpoints) -> str | None:
    """Name of the checkpoint that a run would go on from."""
    with ExitStack() as stack:
        found = checkpoints._newest(stack)
        return None if found is None else found[1]
