"""The columnar path and the row path give the same artifacts, whatever the rows."""

import gzip
import hashlib
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from components.import_data import blocks, decoding, mapped_rows, readers, rows
from components.import_data.adapters import ADAPTERS
from components.import_data.columns import map_columns
from components.import_data.config import ANSWER_ADAPTERS, ImportDataConfig, Source
from components.import_data.identities import normal_texts, pair_ids, prompt_ids
from components.import_data.keys import Keys
from components.import_data.layouts import layout_of
from components.import_data.lines import blocks_of_lines, places
from components.import_data.rows import JsonLine, JsonLines, RawRow
from components.import_data.stage import import_data
from equilibrate_core.artifacts import read_manifest
from equilibrate_core.config import parse_config
from equilibrate_core.records import Message, Pair, normalise_text, pair_id, prompt_id
from equilibrate_core.tables import read_dataset
from tests.components.test_import_malformed import GOOD, OUTPUTS, lines

BY_ROWS = {"pku_saferlhf_full", "hh_rlhf", "dpo_demo", "wildchat", "gptfuzz"}
"""Adapters with a reshape: code that reads whole rows."""
ODD_TEXTS = [
    "a  b",
    " a",
    "a\n",
    'say "no"',
    "back\\slash",
    "\x1c",
    "\x00x",
    "\u3000",
    "é\u00a0é",
    "a.b",
]
FAST = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
texts = st.text(max_size=12) | st.sampled_from(ODD_TEXTS)


def artifacts(folder, sources):
    """Manifests of an import, without what differs from run to run."""
    config = parse_config(
        {"sources": sources, "max_quarantined_share": 1}, ImportDataConfig, "test"
    )
    import_data(config, **{name: folder / name for name in OUTPUTS})
    manifests = {name: read_manifest(folder / name) for name in OUTPUTS}
    return {
        name: (each.digest, each.rows, each.counts, each.inputs, each.files)
        for name, each in manifests.items()
    }


def cut(patch, rows_per_block):
    for module in (readers, rows):
        patch.setattr(module, "ROWS_PER_BLOCK", rows_per_block)


def both_ways(folder, monkeypatch, sources):
    """Artifacts made with the columnar path and, in blocks of another size, without it."""
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "NUM_SAMPLED", 1)  # what is odd further down has to show by itself
        by_columns = artifacts(folder / "columns", sources)
        patch.setattr(blocks, "layout_of", lambda _: None)
        cut(patch, rows_per_block=2)
        return by_columns, artifacts(folder / "rows", sources)


def written(folder, rows, name="rows.jsonl"):
    folder.mkdir(parents=True)
    path = folder / name
    path.write_bytes(rows)
    return path


def is_json(line):
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@st.composite
def good_lines(draw, adapter):
    """A good row with other texts, which may repeat those of another row."""
    row = {name: draw(_like(value)) for name, value in GOOD[adapter].items()}
    return json.dumps(row, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace")


def _like(value):
    if isinstance(value, bool | int):
        return st.just(value) | st.integers(0, 3)
    if isinstance(value, list):
        return st.tuples(*map(_like, value)).map(list) | st.just(value)
    if isinstance(value, str) and value in ("EHD", "IHD", "safe", "unsafe", "helpful"):
        return st.sampled_from([value, f" {value}", value.lower(), "", "NONE"])
    return texts | st.just(value) if isinstance(value, str) else st.just(value)


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
@settings(FAST, max_examples=12)
@given(data=st.data())
def test_both_paths_give_the_same_artifacts(tmp_path, monkeypatch, adapter, data):
    drawn = data.draw(st.lists(good_lines(adapter) | lines(adapter), max_size=16))
    rows = [json.dumps(GOOD[adapter]).encode(), *drawn]
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    if data.draw(st.booleans(), label="as an array"):
        array = [json.loads(row) for row in rows if is_json(row)]
        path = written(folder / "in", json.dumps(array).encode(), "rows.json")
    else:
        path = written(folder / "in", b"\n".join(rows))
    rows_per_block = data.draw(st.sampled_from([1, 3, 100]))
    cut(monkeypatch, rows_per_block)
    twice = [{"name": name, "uri": str(path), "adapter": adapter} for name in ("a", "b")]
    by_columns, by_rows = both_ways(folder, monkeypatch, twice)
    assert by_columns == by_rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", b'[{"prompt": "a"}, {"prompt": "\\ud800"}, {"prompt": "b", "id": "\\ud800"}]'),
        ("x.json", b'[{"prompt": "a", "language": "\\ud800"}, {"prompt": "b"}]'),
        ("x.json", b'[{"prompt": "a", "references": ["\\ud800"]}, {"prompt": "b"}]'),
        (
            "x.jsonl.gz",
            gzip.compress(b'\xef\xbb\xbf{"prompt": "a"}\r\n\n {"prompt": "b  c"} \n', mtime=0),
        ),
        ("x.csv", b"prompt,category,id\na,EHD,1\nb,,2\n,EHD,3\nc, ,\nd,bad,4\n"),
        ("x.jsonl", b'{"prompt": "a", "x": "\xff"}\n{"prompt": "b", "x": 1' + b"0" * 5000 + b"}\n"),
        ("x.jsonl", b'{"prompt": "a", "x": NaN}\n{"prompt": "b", "prompt": "c"}\nnull\n{}'),
        (
            "x.jsonl",
            b'{"prompt": "a", "id": 1}\n{"prompt": "b", "id": "1"}\n{"prompt": "c", "id": true}',
        ),
        (
            "x.jsonl",
            b'{"prompt": "a", "references": ["", " "]}\n{"prompt": "b", "references": ["", "r"]}',
        ),
        ("x.jsonl", b'{"prompt": "a", "x": 1}\n{"prompt": "b", "x": Inf}\n{"prompt": "c"}'),
        ("x.jsonl", b'{"prompt": "Infinity, Inf, and more"}\n{"prompt": "a", "x": -NaN}'),
        ("x.jsonl", b'{"prompt": "a", "x": -Infinity}\n{"prompt": "b", "x": NaN}'),
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": "b", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}"),
        ("x.jsonl", b'{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 12345678901234567890}'),
        ("x.jsonl", b'{"prompt": "a", "id": 1}\n{"prompt": "b", "id": 1.0}\n{"prompt": "c"}'),
        ("x.jsonl", b'{"prompt": "a", "label": true}\n{"prompt": "b", "label": "unsafe"}'),
        ("x.jsonl", b'{"prompt": "a", "references": ["r"]}\n{"prompt": "b", "references": "s"}'),
        ("x.jsonl", b'{"prompt": "a", "references": [null, "r"]}\n{"prompt": "b"}'),
        ("x.jsonl", b'{"prompt": "\\udc00"}\n{"prompt": "\\ud83d\\ude00"}\n{"prom\\u0070t": "c"}'),
        ("x.jsonl", b'{"prompt": "a"}{"prompt": "b"}\n{"prompt": "c"}'),
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": "b"}{"prompt": "c"}\n{"prompt": "d"}'),
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": "b", "x": 1' + b"0" * 5000 + b"}"),
        ("x.jsonl", b'{"prompt": "a"}{"prompt": "b"}\n{"prompt":\n"c"}\n{"prompt": "z"}'),
        (
            "x.jsonl",
            b'{"prompt": "a", "x": {}\n{}}\n{"prompt": "b"}{"prompt": "c"}\n{"prompt":"z"}',
        ),
        (
            "x.jsonl",
            b'{"prompt": "a", "x": "}\n{"}\n{"prompt": "b"}{"prompt": "c"}\n{"prompt":"z"}',
        ),
        ("x.jsonl", b'{"prompt": "a", "x": "\xff"}\n{"prompt": "b"}\n'),
        ("x.jsonl", b'{"prompt": "a", "x": 1' + b"0" * 5000 + b'}\n{"prompt": "b"}\n'),
        ("x.jsonl", b'{"prompt": "a"}\r\n{"prompt": "b"} \n{"prompt": "c"}'),
        ("x.jsonl", b'{"prompt": "a", "id": " "}\n{"prompt": "b", "id": " "}'),
        (
            "x.jsonl",
            b'{"prompt":"a","reference": " ", "references": "r"}\n{"prompt": "b", "language": " "}',
        ),
    ],
)
def test_surprises_of_files_are_the_same_on_both_paths(tmp_path, monkeypatch, name, content):
    path = written(tmp_path / "in", content, name)
    source = {"name": "s", "uri": str(path), "adapter": "prompts"}
    by_columns, by_rows = both_ways(tmp_path, monkeypatch, [source])
    assert by_columns == by_rows


def test_parquet_is_the_same_on_both_paths(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    table = pa.table(
        {"q": ["a", None, "b  c"], "n": [1, 2, 1], "when": pa.array([0, 1, 2], "date32")}
    )
    pq.write_table(table, tmp_path / "in" / "x.parquet")
    source = {"name": "s", "uri": str(tmp_path / "in"), "adapter": "prompts"}
    source["fields"] = {"prompt": "q", "id": "n"}
    by_columns, by_rows = both_ways(tmp_path, monkeypatch, [source])
    assert by_columns == by_rows
    assert by_rows["prompts"][2].quarantined == 2


@pytest.mark.parametrize(
    "options",
    [
        {"adapter": "prompts", "fields": {"prompt": "turns.0", "category": "risk"}},
        {"adapter": "prompts", "fields": {"prompt": "a.b"}},
        {"adapter": "prompts", "fields": {"prompt": "turns.0", "references": "turns"}},
        {"adapter": "prompts", "suite": "own", "is_harmful": True, "category": "IHD"},
        {"adapter": "pairs", "dimension": "helpful"},
        {"adapter": "pairs", "fields": {"chosen": "turns.0", "rejected": "turns.1"}},
    ],
)
def test_settings_of_a_source_are_the_same_on_both_paths(tmp_path, monkeypatch, options):
    row = {"prompt": "p", "turns": ["a", "b"], "risk": "EHD", "a": {"b": "x"}, "label": "safe"}
    row |= {"chosen": "c", "rejected": "r", "dimension": "harmless", "category": "NONE"}
    surprises = [{"turns": ["a"]}, {"turns": []}, {"turns.0": None}, {"turns": "a"}, {"a.b": "y"}]
    rows = [row, *(row | each | {"prompt": str(i)} for i, each in enumerate(surprises))]
    path = written(tmp_path / "in", "\n".join(map(json.dumps, rows)).encode())
    source = {"name": "s", "uri": str(path), **options}
    by_columns, by_rows = both_ways(tmp_path, monkeypatch, [source])
    assert by_columns == by_rows


@pytest.mark.parametrize(("value", "chosen"), [("x", "x"), (None, "a")])
def test_a_column_of_an_elements_name_wins_if_it_has_a_value(tmp_path, monkeypatch, value, chosen):
    good = {"prompt": "p", "response": ["a", "b"]}
    rows = [good, good | {"prompt": "q", "response.0": value}]
    path = written(tmp_path / "in", "\n".join(map(json.dumps, rows)).encode())
    source = {"name": "s", "uri": str(path), "adapter": "pku_saferlhf"}
    by_columns, by_rows = both_ways(tmp_path, monkeypatch, [source])
    assert by_columns == by_rows
    assert [p.chosen for p in read_dataset(tmp_path / "rows" / "pairs", Pair)] == ["a", chosen]


def test_disputed_answers_are_the_same_on_both_paths(tmp_path, monkeypatch):
    rows = [{"response": answers, "prompt": "p"} for answers in (["a", "b"], ["b ", "c"])]
    rows += [{"response": ["d", "b"], "prompt": "p"}, {"response": ["x", "b"], "prompt": "q"}]
    path = written(tmp_path / "in", "\n".join(map(json.dumps, rows)).encode())
    source = {"name": "s", "uri": str(path), "adapter": "pku_saferlhf"}
    by_columns, by_rows = both_ways(tmp_path, monkeypatch, [source])
    assert by_columns == by_rows
    pairs = read_dataset(tmp_path / "rows" / "pairs", Pair)
    assert [(pair.chosen_is_safe, pair.rejected_is_safe) for pair in pairs] == [
        (True, None),
        (None, False),
        (True, None),
        (True, False),
    ]


def left_to_rows(adapter, rows):
    """Places of the rows that the columnar path does not take."""
    layout = layout_of(Source(name="s", uri="x", adapter=adapter))
    return map_columns(layout, rows)[1]


@pytest.mark.parametrize("adapter", sorted(set(ADAPTERS) - BY_ROWS - set(ANSWER_ADAPTERS)))
def test_good_row_goes_by_columns(adapter):
    row = GOOD[adapter]
    line = JsonLine("x", 1, json.dumps(row).encode())
    assert left_to_rows(adapter, [line, RawRow("x[0]", row)]) == []


@pytest.mark.parametrize("adapter", sorted(BY_ROWS))
def test_layout_that_needs_code_has_no_columns(adapter):
    assert layout_of(Source(name="s", uri="x", adapter=adapter)) is None


def test_only_the_lines_that_hold_a_surprise_are_left_to_the_row_path():
    contents = [b'{"prompt": "a"}', b"no JSON", b'{"prompt": 5}', b'{"prompt": " "}']
    contents += [b'{"prompt": "b", "category": "?"}', b'{"prompt": "c", "x": "\xff"}', b"{}"]
    contents += [b'{"prompt": "d", "x": ' + b"1" * 4400 + b"}", b'{"prompt": " e\\u001f"}']
    rows = [JsonLine("x", number, line) for number, line in enumerate(contents)]
    assert left_to_rows("prompts", rows) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("adapter", ["prompts", "pku_saferlhf", "mt_bench"])
def test_lines_that_fit_are_read_all_at_once(adapter, monkeypatch):
    def one_by_one(*_):
        raise AssertionError

    monkeypatch.setattr(decoding, "_decoded", one_by_one)
    content = b"\n".join([json.dumps(GOOD[adapter]).encode()] * 3)
    (lines,) = blocks_of_lines(io.BytesIO(content), 10_000, 1000)
    assert left_to_rows(adapter, JsonLines("x", range(3), lines)) == []


@settings(FAST, max_examples=100)
@given(st.lists(st.booleans(), max_size=40))
def test_places_are_those_that_are_wanted(is_wanted):
    expected = [place for place, wanted in enumerate(is_wanted) if wanted]
    assert places(np.array(is_wanted, dtype=bool)).tolist() == expected


def id_of(number):
    return hashlib.sha256(str(number).encode()).hexdigest()[:24]


@settings(FAST, max_examples=200)
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=12), max_size=12))
def test_keys_know_which_blocks_are_all_new(blocks_of_numbers):
    keys, seen = Keys(), set()
    for numbers in blocks_of_numbers:
        is_new = len(set(numbers)) == len(numbers) and seen.isdisjoint(numbers)
        assert keys.add_new(pa.chunked_array([column([id_of(i) for i in numbers])])) == is_new
        seen.update(numbers if is_new else ())


def test_keys_of_a_part_are_those_of_its_own_rows():
    ids = pa.chunked_array([column([id_of(i) for i in range(6)])])
    keys = Keys()
    assert keys.add_new(ids.slice(2, 3))
    assert keys.add_new(ids.slice(0, 2))
    assert not keys.add_new(ids.slice(4, 2))
    assert keys.add_new(ids.slice(5))


@pytest.mark.parametrize("left_out", [[], [0], [1, 2], [0, 5], list(range(6)), list(range(5))])
@pytest.mark.parametrize("most", [0, 16])
def test_selected_rows_have_no_empty_parts(left_out, most, monkeypatch):
    monkeypatch.setattr(mapped_rows, "MAX_CUTS", most)
    is_selected = ~np.isin(np.arange(6), left_out)
    rows = mapped_rows.selected(pa.table({"x": range(6)}), is_selected)
    assert rows["x"].to_pylist() == [i for i in range(6) if i not in left_out]
    assert all(len(chunk) for chunk in rows["x"].chunks) or not rows.num_rows


def column(texts):
    return pa.array(texts, pa.string())


def normalised(*texts):
    return normal_texts(column(texts))


@settings(FAST, max_examples=200)
@given(st.lists(st.none() | texts | st.text("a \t\x1f\x85\u00a0\u2003é", max_size=4), min_size=1))
@example(["a", ""])
@example(["", "", "a b", None, ""])
@example([None])
@example([chr(code) for code in range(0x3100) if not 0xD800 <= code < 0xE000])
@example([f"a{chr(code)}b" for code in range(0x3100) if not 0xD800 <= code < 0xE000])
def test_normal_texts_of_columns_are_those_of_records(values):
    expected = [None if text is None else normalise_text(text) for text in values]
    assert normalised(*values).to_pylist() == expected
    part = column(["x", *values, "y"]).slice(1, len(values))
    assert normal_texts(part).to_pylist() == expected


@settings(FAST, max_examples=100)
@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=4))
@example([(text, text, "x") for text in ODD_TEXTS])
@example([(chr(code), f"a{chr(code)}b", f" {chr(code)}\\") for code in (*range(33), 0x7F, 0x85)])
def test_ids_of_columns_are_those_of_records(rows):
    prompts, chosen, rejected = zip(*rows, strict=True)
    columns = [normalised(*each) for each in (prompts, chosen, rejected)]
    expected = [prompt_id([Message.model_construct(role="user", content=each)]) for each in prompts]
    assert prompt_ids(columns[0]).to_pylist() == expected
    pairs = pair_ids(column(expected), *columns[1:], column(["helpful"] * len(rows)))
    assert pairs.to_pylist() == [
        pair_id(prompt, a, b, "helpful")
        for prompt, a, b in zip(expected, chosen, rejected, strict=True)
    ]


def test_lines_that_share_objects_are_left_to_the_row_path():
    content = b'{"prompt": "a"}{"prompt": "b"}\n{"prompt": "c"}\n{"prompt": "d", "x": "\xff"}\n'
    (lines,) = blocks_of_lines(io.BytesIO(content), 1000, 1000)
    assert left_to_rows("prompts", JsonLines("x", range(3), lines)) == [0, 2]
    assert left_to_rows("prompts", JsonLines("x", range(1), lines[1:2])) == []


def test_ids_of_old_artifacts_are_still_the_same():
    assert prompt_ids(normalised('Hi  "there"\n')).to_pylist() == ["daa6a9998dca17ced228ef7d"]
    pairs = pair_ids(column(["p"]), normalised("a\\"), normalised("b"), column(["harmless"]))
    assert pairs.to_pylist() == ["c7cd91094ba8d34838a75ded"]
