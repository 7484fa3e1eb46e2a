"""The DeepSpeed engine under the training loop, and the processes that share it.

An objective and the loop's settings -> an engine whose optimizer and shards are as configured.
"""

import atexit
import gc
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import nn

from equilibrate_core.file_waits import file_group
from equilibrate_core.training_config import TrainingConfig


def start_engine(objective: nn.Module, config: TrainingConfig) -> Any:
    """The engine around an objective, in a process group that is there from then on."""
    groups: Any = _parameter_groups(objective, config.weight_decay)
    with _process_variables():
        _init_processes()
        world = dist.get_world_size()
        engine, *_ = deepspeed.initialize(
            model=objective,
            model_parameters=groups,
            config=_deepspeed_config(config, world),
        )
    if world == 1 and not config.zero_stage:
        # Nobody to add gradients up with: DeepSpeed would copy them all out and back again.
        engine.enable_backward_allreduce = False
    return engine


def _parameter_groups(objective: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    trained = [p for p in objective.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _deepspeed_config(config: TrainingConfig, world: int) -> dict[str, Any]:
    return {
        # The loop sums and divides itself; DeepSpeed must see one micro-batch of one.
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": world,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": config.learning_rate,
                "betas": list(config.adam_betas),
                # Building DeepSpeed's own takes a compiler and a minute; torch's is as exact.
                "torch_adam": True,
                "fused": True,
            },
        },
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


@contextmanager
def _process_variables() -> Generator[None]:
    """What torchrun tells its processes, for a process that is the only one.

    Taken back at the end: a child process must not take them for its own.
    """
    if "RANK" in os.environ:
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    alone |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(alone)
    try:
        yield
    finally:
        # DeepSpeed adds some of its own, such as CROSS_RANK.
        for name in (*alone, "CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE"):
            os.environ.pop(name, None)


def _init_processes() -> None:
    """Join the processes torchrun started, or be the only one."""
    if dist.is_initialized():
        return
    # DeepSpeed would compile a shared-memory all-reduce for CPUs here: a minute and a C++ compiler
    # for nothing, since gloo does the same.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")
    file_group()
    atexit.register(_end_gloo)


def _end_gloo() -> None:
    """End gloo's threads while the interpreter is whole: what they meet later aborts the process.

    NCCL's groups stay: to take leave of them may wait for a process that failed.
    """
    if not dist.is_initialized():
        return
    if dist.get_backend() == "gloo":
        deepspeed.comm.destroy_process_group()
    else:
        dist.destroy_process_group(file_group())
    file_group.cache_clear()
    gc.collect()  # engines, which know their groups, are full of cycles
