"""What a training leaves beside its weights: one JSON line per step, and the same for TensorBoard.

step records -> training_log.jsonl and tensorboard/events.out.tfevents.training of a sealed output,
and events beside that output while the training runs.
"""

import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from equilibrate_core.artifacts import remove

LOG_FILE = "training_log.jsonl"
EVENTS_FILE = "tensorboard/events.out.tfevents.training"
LIVE_SUFFIX = ".tensorboard"
"""Of the folder beside an output, `policy.tensorboard`."""
logger = logging.getLogger(__name__)


def write_training_log(folder: Path, logs: Sequence[Mapping[str, float]]) -> None:
    """Write both files; figures named held_out_… get a TensorBoard section of their own."""
    lines = "".join(json.dumps(record) + "\n" for record in logs)
    (folder / LOG_FILE).write_text(lines)
    with tempfile.TemporaryDirectory() as scratch:
        with _writer(scratch) as writer:
            for record in logs:
                for name, value in record.items():
                    if name != "step":
                        writer.add_scalar(_tag(name), value, int(record["step"]))
        (written,) = Path(scratch).iterdir()
        # The writer's own name tells this machine's name and the time.
        events = folder / EVENTS_FILE
        events.parent.mkdir()
        events.write_bytes(written.read_bytes())


@contextmanager
def live_events(output: Path) -> Generator[Callable[[Mapping[str, float]], None]]:
    """Yield what adds a step's record to TensorBoard events in a folder beside `output`.

    Only process 0 writes. Every start begins anew, since a resumed run logs its earlier steps
    again. The folder stays when the block fails, and goes when it ends well: the output has it all.
    """
    if os.environ.get("RANK", "0") != "0":
        yield lambda record: None
        return
    folder = output.with_name(f"{output.name}{LIVE_SUFFIX}")
    events = _LiveEvents(folder)
    try:
        yield events.add
    finally:
        events.close()
    remove(folder)


class _LiveEvents:
    """Events that are on the disk when `add` returns; a disk that fails ends them, not the run.

    tensorboardX' own writer has a thread, whose death on a full disk would let the run wait for
    ever.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None
        # Named by the time as TensorBoard expects; it reads files in the order of their names.
        path = folder / f"events.out.tfevents.{int(time.time())}.live"
        with self._warned():
            remove(folder)
            folder.mkdir(parents=True)
            self._writer = _tensorboard().record_writer.RecordWriter(str(path))
            self._write([_event(file_version="brain.Event:2")])
            logger.info("to watch the training: tensorboard --logdir %s", folder)

    def add(self, record: Mapping[str, float]) -> None:
        """Add one step's figures."""
        if self._writer is None:
            return
        scalar = _tensorboard().summary.scalar
        step = int(record["step"])
        figures = [(_tag(name), value) for name, value in record.items() if name != "step"]
        with self._warned():
            self._write([_event(step=step, summary=scalar(*figure)) for figure in figures])

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, events: Sequence[Any]) -> None:
        for event in events:
            self._writer.write(event.SerializeToString())
        self._writer.flush()

    @contextmanager
    def _warned(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            logger.warning("%s: no more events are written there: %s", self.folder, error)
            with suppress(OSError):  # what it still holds has no room either
                self.close()
            self._writer = None


def _event(**content: Any) -> Any:
    return _tensorboard().proto.event_pb2.Event(wall_time=time.time(), **content)


def _tag(name: str) -> str:
    held_out = name.startswith("held_out_")
    return f"held_out/{name.removeprefix('held_out_')}" if held_out else f"train/{name}"


def _writer(folder: str) -> Any:
    return _tensorboard().SummaryWriter(folder)


@cache
def _tensorboard() -> Any:
    # It imports what is installed of several clouds' clients: slow, and one of them warns.
    with warnings.catch_warnings(action="ignore", category=ImportWarning):
        import tensorboardX
    return tensorboardX
