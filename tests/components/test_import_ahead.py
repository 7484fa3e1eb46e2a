"""Files written while rows are still read: the same artifacts, and no file is written twice."""

import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from components.import_data import intake, readers
from components.import_data.config import ImportDataConfig
from components.import_data.mapped_rows import PROMPTS
from components.import_data.spool import TableSpool
from components.import_data.stage import import_data
from equilibrate_core import tables
from equilibrate_core.artifacts import read_manifest
from equilibrate_core.config import parse_config
from equilibrate_core.records import Message, Prompt

OUTPUTS = ("prompts", "pairs", "quarantine")
answers = st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=2)
rows = st.lists(st.tuples(st.integers(0, 30), answers), max_size=20)


def imported(folder, paths):
    sources = [{"name": path.stem, "uri": str(path), "adapter": "pku_saferlhf"} for path in paths]
    settings = {"sources": sources, "max_quarantined_share": 1}
    config = parse_config(settings, ImportDataConfig, "test")
    import_data(config, **{name: folder / name for name in OUTPUTS})
    manifests = [read_manifest(folder / name) for name in OUTPUTS]
    return [(each.files, each.rows, each.counts) for each in manifests]


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rows, rows)
@example([(i, ["a", "b"]) for i in range(9)], [])
@example([(i, ["a", "b"]) for i in range(9)], [(4, ["b", "a"])])  # takes a pair out of the middle
@example([(i, ["a", "b"]) for i in range(9)], [(4, ["b", "c"]), (8, ["b", "c"])])
@example([(i, ["a", "b"]) for i in range(9)], [(8, ["b", "a"])])
def test_files_written_ahead_are_those_written_at_the_end(tmp_path, monkeypatch, first, second):
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    paths = [folder / "one.jsonl", folder / "two.jsonl"]
    for path, part in zip(paths, (first, second), strict=True):
        lines = [json.dumps({"prompt": f"p{i}", "response": pair}) for i, pair in part]
        path.write_text("".join(f"{line}\n" for line in lines))
    monkeypatch.setattr(tables, "ROWS_PER_FILE", 3)
    monkeypatch.setattr(readers, "ROWS_PER_BLOCK", 2)
    monkeypatch.setattr(intake, "MAX_REPEATED_AHEAD", 1000)
    ahead = imported(folder / "ahead", paths)
    with monkeypatch.context() as patch:
        patch.setattr(TableSpool, "ready_file", lambda *_: None)
        assert imported(folder / "at_the_end", paths) == ahead


def prompts(start, end):
    messages = (Message(role="user", content="hi"),)
    rows = [Prompt(id=str(i), messages=messages, source="s") for i in range(start, end)]
    return pa.Table.from_pylist([row.model_dump() for row in rows], schema=PROMPTS)


@pytest.fixture
def spool(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_PER_FILE", 2)
    with TableSpool(tmp_path / "spool", PROMPTS, Prompt) as spool:
        for start in range(0, 6, 2):
            spool.append(prompts(start, start + 2))
        yield spool


def ready(spool):
    return [spool.ready_file(i, 2 * i) is not None for i in range(4)]


def test_only_unchanged_files_are_ready(spool):
    found = []
    for number, _ in enumerate(spool):
        if number == 1:
            spool.changed()
        found.append(ready(spool)[number])
    assert found == [True, False, True]


def test_no_file_is_ready_from_the_first_row_on_that_moved(spool):
    found = []
    for number, _ in enumerate(spool):
        if number == 1:
            spool.changed(from_here=True)
        elif number == 2:
            spool.changed()
        found.append(ready(spool)[number])
    assert found == [True, False, False]


def test_no_file_is_written_ahead_any_more_once_that_is_stopped(spool):
    spool.stop_ahead()
    spool.append(prompts(6, 8))
    assert sum(table.num_rows for table in spool) == 8
    assert ready(spool) == [True, True, True, False]
