"""How vllm runs here, whoever asks it: what it needs of this process, and what that gets back.

On accelerators it takes processes of its own, on CPUs this one: every process of vllm imports it
anew, which on two cores is most of the start: 25 s in one process against 60 s in three.
"""

import gc
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from equilibrate_core.errors import ModelError

GIB = 1024**3
QUIET_OFFLINE = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    # A forked child inherits the parent's OpenMP threads as locks nobody will open.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


@contextmanager
def vllm_process() -> Generator[None]:
    """Where vllm may be started and has to be stopped; variables that are set stay as they are.

    Afterwards the environment is as before: vllm sets LD_PRELOAD and thread counts that no later
    child of ours should inherit, and its CPU worker replaces a function of torch.
    """
    before, set_num_threads = dict(os.environ), torch.set_num_threads
    os.environ.update({**QUIET_OFFLINE, **os.environ})
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        os.environ.clear()
        os.environ.update(before)


def device_options(
    *, tensor_parallel_size: int, cpu_kv_cache_gib: int, gpu_memory_utilization: float
) -> dict[str, Any]:
    """Arguments of an engine that depend on what it runs on, within `vllm_process`."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {"gpu_memory_utilization": gpu_memory_utilization}
    cores = sorted(os.sched_getaffinity(0))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    if tensor_parallel_size == 1:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return {"kv_cache_memory_bytes": cpu_kv_cache_gib * GIB, "enforce_eager": True}


@contextmanager
def start_errors(model: Path) -> Generator[None]:
    """Turn what vllm says when it cannot start on a model into one line, a ModelError."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{model}: vllm could not start on it: {first_line}") from error


def stop(engine: Any) -> None:
    """Stop an engine (`vllm.LLM`) with its processes."""
    from vllm.distributed import cleanup_dist_env_and_memory

    engine.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()
    gc.collect()
