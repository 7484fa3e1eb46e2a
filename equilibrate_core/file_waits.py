"""Processes of a training that wait while one of them works on files.

NCCL ends every process when one has waited ten minutes in a collective, and to hash and upload, or
to fetch, a checkpoint of a hundred GB takes longer. Such waits go over a gloo group of their own.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch.distributed as dist

FILE_WORK_TIMEOUT = timedelta(hours=6)
"""How long the others wait: 100 GB at 5 MB/s. A process that dies ends the wait at once, since its
connections close."""
T = TypeVar("T")


@cache
def file_group() -> Any:
    """The group for waits on files; all processes must ask for it first at the same point."""
    return dist.new_group(backend="gloo", timeout=FILE_WORK_TIMEOUT)


def wait_for_all() -> None:
    """Return when every process has come here."""
    dist.barrier(group=file_group())


def from_process_0(make: Callable[[], T]) -> T:
    """What `make` gives on process 0, told to all."""
    box: list[Any] = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0, group=file_group())
    return box[0]


def from_every_process(mine: T) -> list[T]:
    """What each process has, by rank."""
    told = [mine] * dist.get_world_size()
    dist.all_gather_object(told, mine, group=file_group())
    return told


def from_first_of_node(make: Callable[[], str]) -> str:
    """What `make` gives on the first process of this node, told to the node's others."""
    mine = (node_number(), make() if is_first_of_node() else None)
    told = from_every_process(mine)
    return next(value for node, value in told if node == node_number() and value is not None)


def node_number() -> int:
    """Which node this process runs on; 0 without torchrun."""
    return int(os.environ.get("GROUP_RANK", "0"))


def is_first_of_node() -> bool:
    """Whether no process of this node has a lower rank."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
