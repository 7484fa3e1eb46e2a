"""Events can be read while a training runs; each step is there once, whatever ended the run."""

import struct
from pathlib import Path

import pytest

from equilibrate_core import training_log
from equilibrate_core.training_log import EVENTS_FILE, live_events, write_training_log

RECORDS = [{"step": s, "loss": 1.0 / s, "held_out_kl": 0.5 * s} for s in (1, 2, 3)]
EXPECTED = [
    (tag, s, pytest.approx(value))
    for s in (1, 2, 3)
    for tag, value in (("train/loss", 1.0 / s), ("held_out/kl", 0.5 * s))
]


def scalars(file: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of every scalar: records of length, its checksum, event, checksum."""
    content, found, place = file.read_bytes(), [], 0
    event_type = training_log._tensorboard().proto.event_pb2.Event
    while place < len(content):
        (size,) = struct.unpack_from("<Q", content, place)
        event = event_type.FromString(content[place + 12 : place + 12 + size])
        found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        place += 12 + size + 4
    return found


def live_file(output: Path) -> Path:
    (file,) = output.with_name(f"{output.name}.tensorboard").glob("events.out.tfevents.*")
    return file


def test_events_are_there_while_the_training_runs_and_go_to_the_output(tmp_path: Path) -> None:
    output = tmp_path / "policy"
    with live_events(output) as add:
        for number, record in enumerate(RECORDS, 1):
            add(record)
            assert scalars(live_file(output)) == EXPECTED[: 2 * number]
        output.mkdir()
        write_training_log(output, RECORDS)
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert scalars(output / EVENTS_FILE) == EXPECTED


def test_a_failed_run_leaves_its_events_and_a_resumed_one_does_not_double_them(
    tmp_path: Path,
) -> None:
    output = tmp_path / "policy"
    for last in (2, 3):  # the second run logs the steps of the first one again
        with pytest.raises(RuntimeError, match="broke"), live_events(output) as add:
            for record in RECORDS[:last]:
                add(record)
            raise RuntimeError("broke")
        assert scalars(live_file(output)) == EXPECTED[: 2 * last]


def test_a_disk_that_fills_up_ends_the_events_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(training_log._tensorboard().record_writer.RecordWriter):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_log._tensorboard().record_writer, "RecordWriter", Full)
    with live_events(tmp_path / "policy") as add:
        for record in RECORDS:
            add(record)
    assert caplog.text.count("policy.tensorboard: no more events are written there") == 1


def test_processes_other_than_the_first_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with live_events(tmp_path / "policy") as add:
        add(RECORDS[0])
        assert list(tmp_path.iterdir()) == []
