"""What the nodes of a TrainJob tell each other and the launching task about their errors.

An error -> a small record beside the output; the loss of another node -> that one's error, or a
preemption if there is none.
"""

import logging
import os
import time

from equilibrate_core.errors import EquilibrateError, PeerLost, Preempted, StageError
from equilibrate_core.json_objects import read_json_object, write_json_object
from equilibrate_core.s3_uris import join_uri
from equilibrate_core.stage import error_of, error_record

PEERS_TELL_S = 120.0
"""Seconds that a node which lost another one waits for that one to tell an error: the other
processes of that one have to end first."""
POLL_S = 1.0
logger = logging.getLogger(__name__)


def node_rank() -> int:
    """Which node this is; the Trainer says it."""
    return int(os.environ.get("PET_NODE_RANK", "0"))


def tell_error(result_uri: str, error: EquilibrateError) -> None:
    """Leave the error where the launching task finds it; the node's own log has it too."""
    try:
        write_json_object(_uri(result_uri, node_rank()), dict(error_record(error)))
    except EquilibrateError as untold:
        logger.warning("%s", untold)


def told_error(result_uri: str, node: int) -> EquilibrateError | None:
    """What stopped a node, if it could say it."""
    record = read_json_object(_uri(result_uri, node))
    return error_of(record) if record is not None else None


def judged(lost: PeerLost, result_uri: str) -> EquilibrateError:
    """What the loss of another node means for this one.

    A node that ends by an error tells it, and its pod's failure ends the job; a node that was lost
    tells nothing, and all are to start again. Errors of earlier starts count: one that was told too
    late comes again, and must not do so for ever.
    """
    nodes = int(os.environ.get("PET_NNODES", "1").rpartition(":")[2])
    deadline = time.monotonic() + PEERS_TELL_S
    while time.monotonic() < deadline:
        for node in range(nodes):
            error = told_error(result_uri, node)
            if error is not None:
                return StageError(f"{lost}; node {node} failed: {error}")
        time.sleep(POLL_S)
    return Preempted(
        f"{lost}; no node told an error within {PEERS_TELL_S:.0f} s: one was lost, all start again"
    )


def _uri(result_uri: str, node: int) -> str:
    return join_uri(result_uri, f"error-{node:05d}.json")
