"""A program that trains a scorer in children which kill themselves at given points.

`python -m tests.equilibrate_core.interrupted_runs FOLDER CHECKPOINT_URI POINT…` prints one JSON
list of exit codes (-9 for killed). Points: `step:N` after step N; `save:N` half-way through the
N-th file that torch writes; `publish:N` before, `remove:N` after the N-th checkpoint became whole;
`upload:N` before the N-th upload; `-` for none. All children are forked from one process, so that
torch is imported once.
"""

import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from components.train_scorer.config import TrainScorerConfig
from components.train_scorer.stage import train_scorer
from equilibrate_core import checkpoint_store, s3
from equilibrate_core.stage import configure_logging, report_error
from equilibrate_core.training import Trainer
from equilibrate_core.training_config import TrainingConfig

TRAINING = TrainingConfig(
    epochs=2,
    batch_size=4,
    micro_batch_size=2,
    learning_rate=3e-3,
    precision="float32",
    zero_stage=0,
    eval_every_steps=3,
    checkpoint_every_steps=2,
)


def config(**training: Any) -> TrainScorerConfig:
    return TrainScorerConfig(
        kind="cost", held_out_share=0.2, training=TRAINING.model_copy(update=training)
    )


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, call: int, act: Callable[..., None]) -> None:
    """Let `act` go before the call with this number of a function."""
    original = getattr(owner, name)
    calls = iter(range(1, 10_000))

    def wrapped(*args: Any, **options: Any) -> Any:
        if next(calls) == call:
            act(*args)
        return original(*args, **options)

    setattr(owner, name, wrapped)


def write_half_and_die(value: Any, path: Any, *_: Any) -> None:
    whole = io.BytesIO()
    torch.serialization.save(value, whole)
    Path(path).write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    kill()


def arm(point: str) -> None:
    where, _, number = point.partition(":")
    local = checkpoint_store.LocalStore
    targets: dict[str, tuple[Any, str]] = {
        "step": (Trainer, "_save_if_due"),
        "save": (torch, "save"),
        "publish": (local, "publish"),
        "remove": (local, "remove"),
        "upload": (s3, "upload_file"),
    }
    if where in targets:
        act = write_half_and_die if where == "save" else lambda *_: kill()
        before(*targets[where], int(number), act)


def child(folder: Path, uri: str | None, point: str) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        configure_logging()
        arm(point)
        options = {"checkpoint_uri": uri} if uri else {}
        train_scorer(
            config(**options),
            pairs=folder / "pairs",
            base_model=folder / "model",
            scorer=folder / ("resumed" if uri else "uninterrupted"),
        )
        code = 0
    except Exception as error:
        traceback.print_exception(error)
        code = report_error(error)
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, target, *points = sys.argv[1:]
    codes = [child(Path(where), None if target == "none" else target, p) for p in points]
    print(json.dumps(codes))
