from itertools import pairwise

import pyarrow as pa
import pytest

from equilibrate_core import tables
from equilibrate_core.records import Message, Prompt
from equilibrate_core.tables import TableWriter, arrow_schema, write_rows


def prompts(number):
    """Prompts of about 800 characters: in files of 3000 rows they fill several pages."""
    texts = (f"text {i} " * 100 for i in range(number))
    messages = ((Message(role="user", content=text),) for text in texts)
    return [Prompt(id=str(i), messages=each, source="s") for i, each in enumerate(messages)]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("cuts", [(0, 5000), (0, 1, 2, 700, 2999, 3000, 3001, 5000), (0, 0, 5000)])
def test_tables_give_the_bytes_of_the_same_rows_however_they_are_cut(tmp_path, monkeypatch, cuts):
    monkeypatch.setattr(tables, "ROWS_PER_FILE", 2500)
    rows = prompts(5000)
    for name in ("rows", "tables"):
        (tmp_path / name).mkdir()
    write_rows(tmp_path / "rows", Prompt, rows)
    table = pa.Table.from_pylist([row.model_dump() for row in rows], schema=arrow_schema(Prompt))
    with TableWriter(tmp_path / "tables", Prompt) as writer:
        for start, end in pairwise(cuts):
            writer.write(table.slice(start, end - start))
    assert writer.num_rows == 5000
    assert contents(tmp_path / "tables") == contents(tmp_path / "rows")


def test_no_rows_are_one_empty_file(tmp_path):
    with TableWriter(tmp_path, Prompt) as writer:
        pass
    assert writer.num_rows == 0 and list(contents(tmp_path)) == ["data-00000.parquet"]


def test_file_that_cannot_be_written_is_an_error(tmp_path):
    table = arrow_schema(Prompt).empty_table()
    with pytest.raises(FileNotFoundError), TableWriter(tmp_path / "absent", Prompt) as writer:
        writer.write(table)
