"""What a training leaves beside its weights: one JSON line per step, and the same for TensorBoard.

step records -> training_log.jsonl and tensorboard/events.out.tfevents.training
"""

import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOG_FILE = "training_log.jsonl"
EVENTS_FILE = "tensorboard/events.out.tfevents.training"


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


def _tag(name: str) -> str:
    held_out = name.startswith("held_out_")
    return f"held_out/{name.removeprefix('held_out_')}" if held_out else f"train/{name}"


def _writer(folder: str) -> Any:
    # It imports what is installed of several clouds' clients: slow, and one of them warns.
    with warnings.catch_warnings(action="ignore", category=ImportWarning):
        from tensorboardX import SummaryWriter
    return SummaryWriter(folder)
