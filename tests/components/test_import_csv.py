"""CSV files as people write them: every line is accounted for, whatever the quotes in it."""

import csv
import io
import json
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.import_data.config import ImportDataConfig
from components.import_data.csv_records import MIN_SWALLOWED_ROWS
from components.import_data.readers import read_file
from components.import_data.rows import BAD_UTF8, QuarantinedRow
from components.import_data.stage import import_data
from equilibrate_core.config import parse_config
from equilibrate_core.errors import DataError
from equilibrate_core.tables import read_dataset

HEADER = "prompt,id"
OUTPUTS = ("prompts", "pairs", "quarantine", "labelled_answers")


def read(folder, content):
    path = folder / "x.csv"
    path.write_bytes(content)
    return [row for rows in read_file(path, "x.csv") for row in rows]


def imported(folder, content, **settings):
    """Counts of the source, and the rows set aside."""
    (folder / "x.csv").write_bytes(content)
    source = {"name": "s", "uri": str(folder / "x.csv"), "adapter": "prompts"}
    config = parse_config({"sources": [source], **settings}, ImportDataConfig, "test")
    import_data(config, **{name: folder / name for name in OUTPUTS})
    counts = json.loads((folder / "prompts" / "sources.json").read_text())["s"]["counts"]
    return counts, read_dataset(folder / "quarantine", QuarantinedRow)


def lines_of(rows):
    """All rows' lines, without the blank ones."""
    return [line for row in rows for line in io.StringIO(row.raw, newline="") if line.strip("\r\n")]


def plain_rows(number):
    return [f"question number {i},{i}" for i in range(number)]


def test_a_stray_quote_costs_its_own_line_alone(tmp_path):
    rows = plain_rows(2000)
    rows[99] = '"what a start,99'
    counts, bad = imported(tmp_path, "\n".join([HEADER, *rows, ""]).encode())
    assert (counts["read"], counts["kept"], counts["quarantined"]) == (2000, 1999, 1)
    assert [(row.location, row.raw) for row in bad] == [(f"{tmp_path}/x.csv:101", rows[99] + "\n")]
    assert bad[0].reason == (
        "broken CSV: unexpected end of data; a quote in this line opens a field of several lines"
    )


def test_a_stray_quote_that_a_later_one_ends_costs_its_own_line_alone(tmp_path):
    rows = plain_rows(50)
    rows[10], rows[20] = 'a,"10', '"a good, quoted one",20'
    found = read(tmp_path, "\n".join([HEADER, *rows, ""]).encode())
    assert [row.location for row in found if row.value is None] == ["x.csv:12"]
    assert found[20].value == {"prompt": "a good, quoted one", "id": "20"}


def test_a_record_of_several_lines_with_too_many_columns_costs_its_first_line(tmp_path):
    content = f'{HEADER}\n"stray,1\ngood,2\ngood,3\n12",5",4\ngood,5\n'.encode()
    found = read(tmp_path, content)
    assert [row.location for row in found if row.problem] == ["x.csv:2", "x.csv:5"]
    assert [row.value["id"] for row in found if row.value] == ["2", "3", "5"]


def test_rows_swallowed_between_two_stray_quotes_are_all_set_aside(tmp_path):
    """By its grammar this is one record: first column `a`, second column 30 lines."""
    rows = plain_rows(40)
    rows[5], rows[35] = 'a,"5', 'a screen of 12,15"'
    counts, bad = imported(
        tmp_path, "\n".join([HEADER, *rows, ""]).encode(), max_quarantined_share=1
    )
    assert (counts["read"], counts["kept"], counts["quarantined"]) == (40, 9, 31)
    assert [row.location for row in bad] == [f"{tmp_path}/x.csv:{n}" for n in range(7, 38)]
    assert {row.reason for row in bad} == {
        "a quoted field of lines that are rows by themselves; is a quote missing?"
    }


def test_the_share_that_cannot_be_used_counts_swallowed_rows(tmp_path):
    rows = plain_rows(40)
    rows[5], rows[35] = 'a,"5', 'a screen of 12,15"'
    with pytest.raises(DataError, match="31"):
        imported(tmp_path, "\n".join([HEADER, *rows, ""]).encode())


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"{i},{i}" for i in range(MIN_SWALLOWED_ROWS)),
        "\n".join([*(f"{i},{i}" for i in range(50)), "", "What do these numbers tell?"]),
        "\n".join(f"line {i} of a long text" for i in range(50)),
    ],
    ids=["few lines", "a table and a question", "prose"],
)
def test_a_quoted_text_of_many_lines_is_one_row(tmp_path, text):
    content = f'{HEADER}\n"{text}",1\nb,2\n'.encode()
    assert [row.value for row in read(tmp_path, content)] == [
        {"prompt": text, "id": "1"},
        {"prompt": "b", "id": "2"},
    ]


def test_a_comment_with_a_stray_quote_hides_no_header(tmp_path):
    content = f'# height, "inches\n#\n{HEADER}\na,1\n"b",2\n'.encode()
    assert [row.value["prompt"] for row in read(tmp_path, content)] == ["a", "b"]


def test_a_header_with_a_stray_quote_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"x\.csv:2: the header is not CSV"):
        read(tmp_path, b'\n"prompt,id\na,1\n')


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"x\.csv:2: the header names 'prompt', 'id' twice; rename"):
        read(tmp_path, b"# note\nprompt,id,label,prompt,id\na,1,safe,b,2\n")
    (row,) = read(tmp_path, b"prompt,,\na,,\n")
    assert row.value == {"prompt": "a", "": ""}, "columns without a name are nobody's"


fields = st.text('ab",\n\r ü', max_size=6)
ends = st.sampled_from(["\n", "\r\n"])
marks = st.sampled_from([b"", b"\xef\xbb\xbf"])
pieces = st.sampled_from(
    ["a", "b c", '"', '""', ",", ",", "\n", "\r\n", '"a","b"', '"two\nlines",2', "\xff", "  "]
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(fields, fields), max_size=8),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    ends,
    marks,
)
def test_what_a_csv_writer_writes_is_read_as_it_was(tmp_path_factory, rows, quoting, end, mark):
    if quoting == csv.QUOTE_MINIMAL:  # before Python 3.13 the writer leaves "\r" without quotes
        rows = [(a.replace("\r", ""), b.replace("\r", "")) for a, b in rows]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=quoting).writerows([HEADER.split(","), *rows])
    folder = tmp_path_factory.mktemp("csv")
    found = read(folder, mark + text.getvalue().encode())
    assert [tuple(row.value.values()) for row in found] == rows


@settings(deadline=None, max_examples=400)
@given(st.lists(pieces, max_size=40).map("".join), ends, marks)
def test_every_line_belongs_to_exactly_one_row(tmp_path_factory, text, end, mark):
    body = text.encode("latin-1")
    folder = tmp_path_factory.mktemp("csv")
    found = read(folder, mark + (HEADER + end).encode() + body)
    whole = body.decode("utf-8", "surrogateescape")
    expected = [line for line in io.StringIO(whole, newline="") if line.strip("\r\n")]
    assert lines_of(found) == expected
    places = [int(row.location.removeprefix("x.csv:")) for row in found]
    all_lines = [HEADER + end, *io.StringIO(whole, newline="")]
    for row, place in zip(found, places, strict=True):
        num_lines = len(list(io.StringIO(row.raw, newline="")))
        assert "".join(all_lines[place - 1 : place - 1 + num_lines]) == row.raw
        assert num_lines == 1 or row.value is not None or row.problem == BAD_UTF8
        if row.value is not None:
            (alone,) = csv.reader(io.StringIO(row.raw, newline=""), strict=True)
            assert alone == list(row.value.values())


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(["good,1", '"good, too",1', '"stray,1', 'a,"stray', "one"])))
def test_stray_and_ragged_lines_cost_no_other_line(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("csv")
    found = read(folder, "\n".join([HEADER, *lines, ""]).encode())
    assert [row.raw for row in found] == [f"{line}\n" for line in lines]
    assert [row.value is not None for row in found] == ["good" in line for line in lines]


@settings(deadline=None, max_examples=25)
@given(st.lists(pieces, max_size=30).map("".join), ends, marks)
def test_the_counts_of_a_csv_file_add_up(tmp_path_factory, text, end, mark):
    folder = tmp_path_factory.mktemp("csv")
    content = mark + (HEADER + end + "first,1" + end).encode() + text.encode("latin-1")
    counts, bad = imported(folder, content, max_quarantined_share=1)
    found = read(folder, content)
    assert counts["read"] == len(found) >= 1
    assert counts["read"] == counts["kept"] + len(bad) + sum(counts["dropped"].values())
    per_line = [len(list(rows)) for _, rows in groupby(bad, lambda row: row.location)]
    assert all(number == 1 for number in per_line)
