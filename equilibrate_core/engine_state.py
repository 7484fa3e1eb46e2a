"""What a process of a training holds, as files: DeepSpeed's engine and the random state.

Engine <-> `engine/` of a checkpoint's folder, in DeepSpeed's own files; they are loaded as tensors
and a few named classes alone. Random state of every library <-> plain values and tensors.
"""

import os
import random
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch import nn

ENGINE = "engine"
DEEPSPEED_CLASSES: list[Any] = [LossScaler, ZeroStageEnum, fragment_address]
"""What DeepSpeed's files hold besides tensors and plain values."""


def save_engine(engine: Any, folder: Path) -> None:
    """Add every process's part of the engine to a folder; all of them call it together.

    Raises OSError where this process could not write, but only once all of them are through:
    DeepSpeed waits for every process at the end, and one that left early would hold up the others.
    """
    with _kept_faults(engine) as faults:
        engine.save_checkpoint(
            str(folder), tag=ENGINE, save_latest=False, exclude_frozen_parameters=True
        )
    if faults:
        raise faults[0]


def save_random_state(path: Path) -> None:
    """Write `random_state` to a file. Raises OSError where that is impossible."""
    with _as_os_error():
        torch.save(random_state(), path)


@contextmanager
def _kept_faults(engine: Any) -> Generator[list[OSError]]:
    """What goes wrong while DeepSpeed writes its files, for the length of the block."""
    faults: list[OSError] = []
    write = engine.checkpoint_engine.save

    def save(state_dict: dict[str, Any], *arguments: Any, **options: Any) -> None:
        try:
            with _as_os_error():
                write(_without_frozen(engine.module, state_dict), *arguments, **options)
        except OSError as error:
            faults.append(error)

    def copy_no_scripts(folder: str) -> None:
        """Leave out what DeepSpeed has one process alone copy there, outside of `save`."""

    engine.checkpoint_engine.save = save
    engine._copy_recovery_script = copy_no_scripts
    try:
        yield faults
    finally:
        del engine.checkpoint_engine.save, engine._copy_recovery_script


def _without_frozen(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """The state without frozen weights under a second name: DeepSpeed looks for one only.

    The head of a model that shares it with the embedding is as large as both.
    """
    names = module.named_parameters(remove_duplicate=False)
    frozen = {name for name, weight in names if not weight.requires_grad}
    if not frozen or not isinstance(state.get("module"), dict):
        return state
    kept = {name: value for name, value in state["module"].items() if name not in frozen}
    return state | {"module": kept}


@contextmanager
def _as_os_error() -> Generator[None]:
    """Errors of the disk as such: torch tells of a full one by a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[0]) from error


def load_engine(engine: Any, folder: Path) -> None:
    """Load without executing what a pickle says: DeepSpeed itself would."""
    all_trained = all(p.requires_grad for p in engine.module.parameters())
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with torch.serialization.safe_globals(DEEPSPEED_CLASSES):
            engine.load_checkpoint(
                str(folder),
                tag=ENGINE,
                load_module_strict=all_trained,
                load_lr_scheduler_states=False,
            )
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]


def random_state() -> dict[str, Any]:
    """State of every random generator of this process."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, [int(key) for key in keys], *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put every random generator where `random_state` found it."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
