"""Telling the loss of another process of a training from an error of this one.

What a collective raises -> PeerLost when the other end of a connection went away. Time-outs are no
such sign: processes that wait for each other by mistake would start again for ever.
"""

import os
from collections.abc import Iterator

from equilibrate_core.errors import PeerLost, Preempted, UserError

SIGNS = (
    # gloo, and NCCL's sockets
    "connection closed by peer",
    "connection closed by remote peer",
    "connection reset by peer",
    "broken pipe",
    # NCCL: ncclRemoteError
    "ncclremoteerror",
    "remote process exit",
    # the store by which processes meet
    "connection was likely closed",
    "got 0 bytes",
)
"""Parts of messages; torch has no type for them."""


def lost_peer(error: Exception) -> PeerLost | None:
    """The loss of another process, if that is what an error among several processes comes from."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone or isinstance(error, UserError | Preempted):
        return None
    for cause in _causes(error):
        # torch raises RuntimeError and its kin; a store's or a hub's errors are none.
        text = str(cause).lower()
        if isinstance(cause, RuntimeError) and any(sign in text for sign in SIGNS):
            line = str(cause).strip().splitlines()[0]
            return PeerLost(f"another process of this training went away: {line}")
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
