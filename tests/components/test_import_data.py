import csv
import gzip
import io
import json
import random
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.import_data import sources
from components.import_data.config import ImportDataConfig, Source
from components.import_data.readers import read_file
from components.import_data.rows import BYTES_PER_BLOCK, RAW_CHARS, QuarantinedRow
from components.import_data.sources import read_source
from components.import_data.stage import import_data
from equilibrate_core.artifacts import verify_artifact
from equilibrate_core.config import parse_config
from equilibrate_core.errors import ConfigError, DataError, StorageError
from equilibrate_core.records import HARM_DISPUTED, LabelledAnswer, Pair, Prompt
from equilibrate_core.s3 import upload_file
from equilibrate_core.tables import read_dataset

pytest_plugins = ["tests.s3_store"]

ROWS = [{"prompt": "one", "category": "EHD"}, {"prompt": "two\nlines, ü", "category": "NONE"}]


class Imported:
    """What one run of the stage left."""

    def __init__(self, folder, *sources, **settings):
        config = parse_config({"sources": list(sources), **settings}, ImportDataConfig, "test")
        names = ("prompts", "pairs", "quarantine", "labelled_answers")
        outputs = {name: folder / name for name in names}
        self.metrics = import_data(config, **outputs)
        self.prompts = read_dataset(outputs["prompts"], Prompt)
        self.pairs = read_dataset(outputs["pairs"], Pair)
        self.answers = read_dataset(outputs["labelled_answers"], LabelledAnswer)
        self.quarantine = read_dataset(outputs["quarantine"], QuarantinedRow)
        self.sources = json.loads((outputs["prompts"] / "sources.json").read_text())
        self.manifests = {name: verify_artifact(path) for name, path in outputs.items()}

    @property
    def texts(self):
        return [prompt.messages[-1].content for prompt in self.prompts]


@pytest.fixture
def run(tmp_path):
    def run(*sources, **settings):
        return Imported(tmp_path / "out", *sources, **settings)

    return run


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def source(path, adapter="prompts", name="s", **options):
    return {"name": name, "uri": str(path), "adapter": adapter, **options}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def prompts_file(path, *rows):
    return write(path, jsonl(rows))


def pair_row(prompt="p", chosen="a", rejected="b", **options):
    return {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "dimension": "harmless",
        **options,
    }


FORMATS = {
    "x.jsonl": jsonl(ROWS),
    "x.json": json.dumps(ROWS, indent=1).encode(),
    "lines.json": jsonl(ROWS),
    "x.csv": as_csv(ROWS),
    "commented.csv": b"# dataset_version=1.2\n# second\n" + as_csv(ROWS),
    "x.parquet": parquet(ROWS),
    "bom.jsonl": b"\xef\xbb\xbf" + jsonl(ROWS),
    "bom.csv": b"\xef\xbb\xbf" + as_csv(ROWS),
    "blank_lines.jsonl": b"\n" + jsonl(ROWS).replace(b"\n", b"\r\n\r\n"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_prompts(run, tmp_path, name, packed):
    content = FORMATS[name]
    path = tmp_path / (f"{name}.gz" if packed else name)
    write(path, gzip.compress(content) if packed else content)
    result = run(source(path))
    assert result.texts == ["one", "two\nlines, ü"]
    assert [prompt.gold_category for prompt in result.prompts] == ["EHD", "NONE"]
    assert result.quarantine == []


def test_folder_means_all_its_data_files_in_the_order_of_their_names(run, tmp_path, caplog):
    folder = tmp_path / "set"
    prompts_file(folder / "b.jsonl", {"prompt": "second"})
    prompts_file(folder / "a" / "z.jsonl", {"prompt": "first"})
    write(folder / "c.csv.gz", gzip.compress(b"prompt\nthird\n"))
    write(folder / "README.md", "no data")
    prompts_file(folder / "_temporary" / "half.jsonl", {"prompt": "half"})
    result = run(source(folder))
    assert result.texts == ["first", "second", "third"]
    assert "2 files are no data files: README.md, _temporary/half.jsonl" in caplog.text


# name → (file name, content, location suffix and reason of the one bad row); each file also holds
# two good rows.
GOOD = [b'{"prompt": "good 1"}\n', b'{"prompt": "good 2"}\n']
BAD_LINES = {
    "missing field": (b'{"text": "x"}', "field 'prompt' is missing"),
    "wrong type": (b'{"prompt": 5}', "field 'prompt' is int, expected text"),
    "broken JSON": (b'{"prompt": "x', "broken JSON at column 12"),
    "no object": (b"[1, 2]", "expected an object, found list"),
    "empty prompt": (b'{"prompt": ""}', "field 'prompt' is empty"),
    "invalid UTF-8": (b'{"prompt": "caf\xe9"}', "invalid UTF-8"),
    "lone surrogate": (b'{"prompt": "\\ud83d"}', "not valid Unicode"),
    "unknown category": (b'{"prompt": "x", "category": "?"}', "unknown category '?'"),
    "endless number": (b'{"prompt": ' + b"9" * 5000 + b"}", "broken JSON"),
    "endless brackets": (b"[" * 100_000, "broken JSON"),
    "control character": (b'{"prompt": "a\x00b"}', "broken JSON at column"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_bad_line_goes_to_quarantine_and_the_rest_is_kept(run, tmp_path, kind):
    line, reason = BAD_LINES[kind]
    path = write(tmp_path / "x.jsonl", GOOD[0] + line + b"\n" + GOOD[1])
    result = run(source(path))
    assert result.texts == ["good 1", "good 2"]
    (bad,) = result.quarantine
    assert bad.source == "s" and bad.location == f"{path}:2"
    assert reason in bad.reason and "\n" not in bad.reason
    assert bad.raw == line.decode("utf-8", "replace")[:RAW_CHARS]


def test_a_question_mark_in_the_config_makes_no_required_field_optional(run, tmp_path):
    rows = [{"question": "q1"}, {"other": "q2"}]
    path = write(tmp_path / "rows.jsonl", jsonl(rows))
    outcome = run(source(path, fields={"prompt": "question?"}))
    assert [p.messages[0].content for p in outcome.prompts] == ["q1"]
    assert outcome.quarantine[0].reason == "field 'question' is missing"


def test_bad_pairs_go_to_quarantine(run, tmp_path):
    rows = [pair_row(), pair_row(chosen="same", rejected=" same"), pair_row(rejected="")]
    path = prompts_file(tmp_path / "x.jsonl", *rows)
    result = run(source(path, "pairs"), max_quarantined_share=1)
    assert [bad.reason for bad in result.quarantine] == [
        "chosen and rejected are the same answer",
        "field 'rejected' is empty",
    ]
    counts = result.manifests["pairs"].counts
    assert (counts.read, counts.kept, counts.quarantined) == (3, 1, 2)


def test_id_given_to_two_rows_with_other_content_quarantines_the_second(run, tmp_path):
    rows = [{"id": 7, "prompt": "a"}, {"id": 7, "prompt": "b"}, {"id": 7, "prompt": "a"}]
    result = run(source(prompts_file(tmp_path / "x.jsonl", *rows)))
    assert [bad.reason for bad in result.quarantine] == ["duplicate id '7' with other content"]
    assert result.sources["s"]["counts"]["dropped"] == {"exact_duplicate": 1}


@pytest.mark.parametrize("write_shard", [jsonl, parquet])
def test_the_same_id_in_two_files_of_a_folder_is_no_duplicate(run, tmp_path, write_shard):
    suffix = write_shard.__name__
    for shard in range(3):
        rows = [{"id": i, "prompt": f"{shard}.{i}"} for i in range(2)]
        write(tmp_path / "set" / f"{shard}.{suffix}", write_shard(rows))
    result = run(source(tmp_path / "set"))
    assert result.texts == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
    assert result.quarantine == []


@pytest.mark.parametrize(
    ("name", "content", "location", "reason"),
    [
        ("x.json", b'[{"prompt": "good 1"}, {"prompt": 5}, {"prompt": "good 2"}]', "[1]", "is int"),
        ("x.json", b'[{"prompt": "good 1"}, 5, {"prompt": "good 2"}]', "[1]", "found int"),
        (
            "x.json",
            b'[{"prompt": "good 1"}, {"prompt": "\xff"}, {"prompt": "good 2"}]',
            "[1]",
            "invalid UTF-8",
        ),
        ("x.csv", b"prompt,id\ngood 1,1\nbad\ngood 2,3\n", ":3", "1 columns .* header has 2"),
        ("x.csv", b'prompt,id\n"good\n1",1\n"b"ad,2\ngood 2,3\n', ":4", "broken CSV"),
        ("x.csv", b'prompt,id\ngood 1,1\ngood 2,2\n"bad,3\n', ":4", "broken CSV"),
        ("x.csv", b"prompt,id\ngood 1,1\nb\xffd,2\ngood 2,3\n", ":3", "invalid UTF-8"),
        ("x.csv", b"# note\nprompt\ngood 1\n \ngood 2\n", ":4", "field 'prompt' is empty"),
        (
            "x.parquet",
            parquet([{"prompt": "good 1"}, {"prompt": None}, {"prompt": "good 2"}]),
            "[1]",
            "is missing",
        ),
    ],
)
def test_bad_row_of_any_format_is_located(run, tmp_path, name, content, location, reason):
    path = write(tmp_path / name, content)
    result = run(source(path))
    assert [" ".join(text.split()) for text in result.texts] == ["good 1", "good 2"]
    (bad,) = result.quarantine
    assert bad.location == f"{path}{location}"
    assert re.search(reason, bad.reason)


LONG_ROWS = [{"prompt": f"{i} " + "x" * 2**20} for i in range(12)]


def hub_blocks(monkeypatch):
    given = datasets.Dataset.from_list(LONG_ROWS)
    monkeypatch.setattr(sources, "hub_revision", lambda uri, kind: COMMIT)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: given)
    return read_source(Source(**source("hf://org/name")), Path("unused"), {})


@pytest.mark.parametrize("kind", ["x.parquet", "x.json", "x.csv", "hub"])
def test_blocks_of_long_rows_are_small_wherever_they_come_from(tmp_path, monkeypatch, kind):
    if kind == "hub":
        blocks = list(hub_blocks(monkeypatch))
    else:
        as_bytes = {"x.parquet": parquet, "x.csv": as_csv}.get(
            kind, lambda r: json.dumps(r).encode()
        )
        blocks = list(read_file(write(tmp_path / kind, as_bytes(LONG_ROWS)), kind))
    assert max(map(len, blocks)) <= BYTES_PER_BLOCK // 2**20 + 1
    assert [row.value for rows in blocks for row in rows] == LONG_ROWS


def test_invalid_utf8_inside_parquet_is_quarantined(run, tmp_path):
    raw = pa.array([b"good 1", b"b\xff", b"good 2"], pa.binary()).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"prompt": text}), tmp_path / "x.parquet")
    result = run(source(tmp_path / "x.parquet"))
    assert result.texts == ["good 1", "good 2"]
    assert [bad.reason for bad in result.quarantine] == ["invalid UTF-8"]
    assert [Path(bad.location).name for bad in result.quarantine] == ["x.parquet[1]"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", b'[{"prompt": "a"},\n {"prompt": ]', r"x\.json:2:13: broken JSON"),
        ("x.json", b"", r"x\.json:1:1: broken JSON"),
        ("x.json", b'"text"', "expected a JSON array of rows, found str"),
        ("x.jsonl", b"[\n" + GOOD[0] + b"]\n", "holds a JSON array"),
        ("x.jsonl", b"Once upon\na time\nthere was\n", "not one of its 3 lines is a JSON object"),
        ("x.jsonl", parquet(ROWS), "this is Parquet"),
        ("x.csv", gzip.compress(b"prompt\nx\n", mtime=0), "this is gzip"),
        ("x.json", '[{"prompt": "x"}]'.encode("utf-16"), "this is UTF-16 text"),
        ("x.csv", b"\x00\x01" * 100, "this is binary data"),
        ("x.parquet", b"prompt\nx\n", "not a readable Parquet file"),
        ("x.parquet", parquet(ROWS)[:-20], "not a readable Parquet file"),
        ("x.jsonl.gz", b'{"prompt": "x"}\n', "not a whole gzip file"),
        ("x.jsonl.gz", gzip.compress(jsonl(ROWS) * 99, mtime=0)[:-9], "not a whole gzip file"),
        ("x.xlsx", b"x", r"unknown kind of file; expected \.jsonl"),
        ("folder/README.md", b"x", r"no \.jsonl"),
    ],
)
def test_file_that_is_not_what_it_says_stops_the_stage_with_one_line(
    run, tmp_path, name, content, words
):
    write(tmp_path / name, content)
    with pytest.raises(DataError, match=words) as caught:
        run(source(tmp_path / name.split("/")[0]))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "prompts").exists()


def test_absent_file_is_named(run, tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file or folder"):
        run(source(tmp_path / "absent.jsonl"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adapter": "unknown"}, r"sources\.0\.adapter: Input should be 'equilibrate'"),
        ({"name": ".."}, r"name: .*'\.\.' means a folder"),
        ({"uri": "http://x/y"}, "only s3://, hf:// and local paths"),
        ({"adapter": "xstest", "fields": {"prompt": "x"}}, "maps no fields"),
        ({"fields": {"promt": "x"}}, r"fields \['promt'\].* can map prompt"),
        ({"adapter": "answers", "suite": "x"}, "suite: adapter 'answers' reads labelled answers"),
        ({"adapter": "answers", "fields": {"chosen": "x"}}, r"can map prompt, answer, is_safe"),
        ({"limit": 0}, "limit"),
        ({"limt": 3}, "limt: unknown field"),
    ],
)
def test_mistake_in_a_source_is_one_line(change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse_config({"sources": [source("x") | change]}, ImportDataConfig, "run.yaml")
    assert "\n" not in str(caught.value)


def test_run_without_sources_is_refused():
    with pytest.raises(ConfigError, match="at least one source"):
        parse_config({"sources": []}, ImportDataConfig, "run.yaml")


def test_sources_need_different_names():
    with pytest.raises(ConfigError, match="different names"):
        parse_config({"sources": [source("x"), source("y")]}, ImportDataConfig, "run.yaml")


def test_exact_duplicates_are_dropped_and_counted(run, tmp_path):
    rows = [{"prompt": "a", "category": "EHD"}, {"prompt": " a ", "category": "EHD"}]
    result = run(source(prompts_file(tmp_path / "x.jsonl", *rows)))
    assert len(result.prompts) == 1
    assert result.sources["s"]["counts"]["dropped"] == {"exact_duplicate": 1}
    assert result.metrics["dropped_exact_duplicate"] == 1


def test_contradicting_labels_leave_one_prompt_without_a_label(run, tmp_path):
    rows = [{"prompt": "a", "category": category} for category in ("EHD", "EHD", "IHD", "EHD")]
    result = run(source(prompts_file(tmp_path / "x.jsonl", *rows)))
    (prompt,) = result.prompts
    assert prompt.gold_category is None
    dropped = {"exact_duplicate": 1, "conflicting_label": 2}
    assert result.sources["s"]["counts"] == {
        "read": 4,
        "kept": 1,
        "quarantined": 0,
        "dropped": dropped,
    }


def test_prompt_of_several_sources_keeps_the_first_and_gains_what_it_lacked(run, tmp_path):
    plain = prompts_file(tmp_path / "a.jsonl", {"prompt": "x"}, {"prompt": "y"})
    gold = prompts_file(tmp_path / "b.jsonl", {"prompt": "x ", "category": "IHD"})
    suite = prompts_file(tmp_path / "c.jsonl", {"prompt": "x", "label": "unsafe"})
    other = prompts_file(tmp_path / "d.jsonl", {"prompt": "x", "reference": "r"})
    result = run(
        source(plain, name="a", is_harmful=False),
        source(gold, name="b"),
        source(suite, name="c", suite="first"),
        source(other, name="d", suite="second"),
    )
    prompt = result.prompts[0]
    assert (prompt.source, prompt.gold_category, prompt.suite) == ("a", "IHD", "first")
    assert prompt.is_harmful is True  # the suite knows better
    assert prompt.references == ("r",) and prompt.metadata == {"also_in_suites": "second"}
    assert result.metrics["dropped_merged_prompt"] == 3
    assert result.metrics["evaluation_prompts"] == 1
    assert result.metrics["disputed_evaluation_prompts"] == 0


def test_only_the_labels_of_repeated_prompts_change(run, tmp_path):
    rows = [{"prompt": name, "language": name * 2, "references": [name]} for name in "abcde"]
    more = [{"prompt": name, "category": "EHD", "references": ["r"]} for name in "dbx"]
    first = prompts_file(tmp_path / "a.jsonl", *rows)
    second = prompts_file(tmp_path / "b.jsonl", *more)
    result = run(source(first, name="a"), source(second, name="b"))
    assert [
        (text, prompt.source, prompt.gold_category, prompt.references, prompt.metadata)
        for text, prompt in zip(result.texts, result.prompts, strict=True)
    ] == [
        ("a", "a", None, ("a",), {"language": "aa"}),
        ("b", "a", "EHD", ("b", "r"), {"language": "bb"}),
        ("c", "a", None, ("c",), {"language": "cc"}),
        ("d", "a", "EHD", ("d", "r"), {"language": "dd"}),
        ("e", "a", None, ("e",), {"language": "ee"}),
        ("x", "b", "EHD", ("r",), {}),
    ]


def test_training_source_never_takes_a_prompt_out_of_its_suite(run, tmp_path):
    suite = prompts_file(tmp_path / "a.jsonl", {"prompt": "x", "label": "safe"})
    pairs = prompts_file(tmp_path / "b.jsonl", pair_row(prompt="x"))
    result = run(source(suite, name="a", suite="benign"), source(pairs, "pairs", name="b"))
    (prompt,) = result.prompts
    assert (prompt.suite, prompt.is_harmful) == ("benign", False)
    assert result.pairs[0].prompt_id == prompt.id


def test_suites_that_disagree_leave_is_harmful_open_and_the_prompt_out(run, tmp_path, caplog):
    path = prompts_file(tmp_path / "a.jsonl", {"prompt": "x"})
    result = run(
        source(path, name="a", suite="one", is_harmful=True),
        source(path, name="b", suite="two", is_harmful=False),
    )
    (prompt,) = result.prompts
    assert (prompt.suite, prompt.is_harmful) == ("one", None)
    assert prompt.metadata[HARM_DISPUTED] == "true"
    assert result.metrics["dropped_conflicting_label"] == 1
    assert result.metrics["disputed_evaluation_prompts"] == 1
    assert "1 evaluation prompts with disputed is_harmful are left out" in caplog.text


def test_pair_preferred_both_ways_is_dropped_both_times_but_its_prompt_stays(run, tmp_path):
    rows = [
        pair_row(),
        pair_row(chosen="b ", rejected="a"),
        pair_row(),
        pair_row(chosen="b", rejected="a", dimension="helpful"),
        pair_row(chosen="c"),
    ]
    result = run(source(prompts_file(tmp_path / "x.jsonl", *rows), "pairs"))
    assert [(pair.chosen, pair.dimension) for pair in result.pairs] == [
        ("b", "helpful"),
        ("c", "harmless"),
    ]
    assert result.texts == ["p"]
    assert result.sources["s"]["counts"]["dropped"] == {
        "conflicting_preference": 2,
        "exact_duplicate": 1,
    }


def test_contradicting_safety_flags_of_a_pair_are_unknown(run, tmp_path):
    rows = [
        pair_row(chosen_is_safe=True, rejected_is_safe=False),
        pair_row(chosen_is_safe=False),
        pair_row(chosen_is_safe=True),
    ]
    result = run(source(prompts_file(tmp_path / "x.jsonl", *rows), "pairs"))
    (pair,) = result.pairs
    assert (pair.chosen_is_safe, pair.rejected_is_safe) == (None, False)
    assert result.sources["s"]["counts"]["dropped"] == {"conflicting_label": 2}


def test_answer_that_is_safe_in_one_pair_and_unsafe_in_another_has_no_flag(run, tmp_path, caplog):
    rows = [
        pair_row(chosen="a", rejected="b", chosen_is_safe=True, rejected_is_safe=False),
        pair_row(chosen="b ", rejected="c", chosen_is_safe=True, rejected_is_safe=False),
        pair_row(chosen="d", rejected="b", dimension="helpful", chosen_is_safe=True),
        pair_row(prompt="q", chosen="b", rejected="e", chosen_is_safe=True, rejected_is_safe=True),
    ]
    other = [pair_row(chosen="c", rejected="a", chosen_is_safe=False, rejected_is_safe=True)]
    result = run(
        source(prompts_file(tmp_path / "x.jsonl", *rows), "pairs"),
        source(prompts_file(tmp_path / "y.jsonl", *other), "pairs", name="other"),
    )
    flags = [(p.chosen, p.chosen_is_safe, p.rejected, p.rejected_is_safe) for p in result.pairs]
    assert flags == [
        ("a", True, "b", None),
        ("b ", None, "c", False),
        ("d", True, "b", None),
        ("b", True, "e", True),  # another prompt's answer
        ("c", False, "a", True),
    ]
    assert result.metrics["disputed_answers"] == 1
    assert "1 answers are safe in one pair and unsafe in another" in caplog.text


def test_pair_that_is_dropped_testifies_of_its_answers_too(run, tmp_path):
    rows = [
        pair_row(chosen="a", rejected="b", chosen_is_safe=True),
        pair_row(chosen="a", rejected="b", chosen_is_safe=False),  # a duplicate but for the flag
        pair_row(chosen="a", rejected="c", chosen_is_safe=True),
        pair_row(chosen="d", rejected="e", rejected_is_safe=True),  # both orders: both go
        pair_row(chosen="e", rejected="d"),
        pair_row(chosen="e", rejected="f", chosen_is_safe=False, rejected_is_safe=False),
    ]
    result = run(source(prompts_file(tmp_path / "x.jsonl", *rows), "pairs"))
    flags = [(p.chosen, p.chosen_is_safe, p.rejected, p.rejected_is_safe) for p in result.pairs]
    assert flags == [
        ("a", None, "b", None),
        ("a", None, "c", None),
        ("e", None, "f", False),
    ]
    assert result.metrics["disputed_answers"] == 2


def test_row_with_one_good_pair_of_two_is_kept(run, tmp_path):
    row = {
        "prompt": "p",
        "response_0": "a",
        "response_1": "b",
        "is_response_0_safe": True,
        "is_response_1_safe": True,
        "better_response_id": 0,
        "safer_response_id": 0,
    }
    path = write(tmp_path / "x.json", json.dumps([row, row | {"better_response_id": 1}]))
    result = run(source(path, "pku_saferlhf_full"))
    assert [pair.dimension for pair in result.pairs] == ["harmless"]
    assert result.sources["s"]["counts"]["dropped"] == {"conflicting_preference": 1}
    counts = result.manifests["pairs"].counts
    assert (counts.read, counts.kept) == (4, 1)
    assert counts.dropped == {"exact_duplicate": 1, "conflicting_preference": 2}


def test_labelled_answers_go_to_their_own_artifact_and_nowhere_else(run, tmp_path):
    rows = [
        {"prompt": "p", "answer": "no", "refusal": "Refusal"},
        {"prompt": "p", "answer": " no", "refusal": "Refusal"},
        {"prompt": "p", "answer": "no", "refusal": "Partial"},
        {"prompt": "p", "answer": "unlabelled"},
    ]
    answers = write(tmp_path / "answers.jsonl", jsonl(rows))
    prompts = prompts_file(tmp_path / "prompts.jsonl", {"prompt": "other"})
    result = run(source(answers, "answers", "a"), source(prompts))
    assert [(row.answer, row.refusal) for row in result.answers] == [
        ("no", "Refusal"), ("no", "Partial"),
    ]  # fmt: skip
    assert result.texts == ["other"] and result.pairs == []
    counts = {"read": 4, "kept": 2, "quarantined": 1, "dropped": {"exact_duplicate": 1}}
    assert result.sources["a"]["counts"] == counts
    assert result.manifests["labelled_answers"].counts.model_dump() == counts
    assert result.manifests["prompts"].counts.read == 1
    (bad,) = result.quarantine
    assert (bad.source, "no label" in bad.reason) == ("a", True)
    assert bad.location.endswith("answers.jsonl:4")
    totals = [result.metrics[n] for n in ("rows_read", "rows_kept", "labelled_answers")]
    assert totals == [5, 3, 2]


def test_a_commented_csv_of_refusals_is_read(run, tmp_path):
    content = "# dataset_version=1.2\nobjective,assistant_response,human_score\nWhy?,No.,1\n"
    result = run(source(write(tmp_path / "x.csv", content), "pyrit_refusal"))
    assert [(row.answer, row.refusal) for row in result.answers] == [("No.", "Refusal")]


def test_every_answer_of_the_sample_has_its_label_and_prompts_have_several(run):
    sample = Path(__file__).parents[2] / "pipelines" / "sample" / "labelled_answers.jsonl"
    result = run(source(sample, "answers"))
    assert len(result.answers) == len(sample.read_text(encoding="utf-8").splitlines()) == 12
    assert {row.refusal for row in result.answers} == {"Compliance", "Partial", "Refusal"}
    assert len({row.prompt_id for row in result.answers}) < len(result.answers)


def test_answers_with_other_columns_stop_the_stage(run, tmp_path):
    path = write(tmp_path / "x.jsonl", jsonl([{"question": "p", "reply": "a", "refusal": 1}] * 3))
    with pytest.raises(DataError, match="3 of 3 rows"):
        run(source(path, "answers"))


def test_labelled_answers_without_a_place_to_go_are_refused(tmp_path):
    row = {"prompt": "p", "answer": "a", "is_safe": True}
    path = write(tmp_path / "x.jsonl", jsonl([row]))
    sources = {"sources": [source(path, "answers", "mine")]}
    config = parse_config(sources, ImportDataConfig, "test")
    outputs = {name: tmp_path / name for name in ("prompts", "pairs", "quarantine")}
    with pytest.raises(ConfigError, match="mine holds labelled answers"):
        import_data(config, **outputs)
    assert not outputs["prompts"].exists()


def test_limit_counts_rows_read_and_order_follows_the_sources(run, tmp_path):
    first = prompts_file(tmp_path / "z.jsonl", {"prompt": "1"}, {}, {"prompt": "3"})
    second = prompts_file(tmp_path / "a.jsonl", {"prompt": "4"}, {"prompt": "5"})
    result = run(source(first, name="z", limit=2), source(second, name="a"))
    assert result.texts == ["1", "4", "5"]
    assert len(result.quarantine) == 1 and result.metrics["rows_read"] == 4


def test_same_sources_give_the_same_bytes_and_other_content_another_input_digest(tmp_path):
    path = prompts_file(tmp_path / "x.jsonl", *ROWS, pair_row())
    first = Imported(tmp_path / "one", source(path))
    second = Imported(tmp_path / "two", source(path))
    for name, manifest in first.manifests.items():
        assert manifest.digest == second.manifests[name].digest
        assert manifest.inputs == second.manifests[name].inputs
    prompts_file(path, *ROWS)
    changed = Imported(tmp_path / "three", source(path))
    assert changed.manifests["pairs"].inputs != first.manifests["pairs"].inputs


def test_licence_and_origin_are_kept_beside_the_prompts(run, tmp_path):
    path = prompts_file(tmp_path / "x.jsonl", *ROWS)
    report = run(source(path, licence="MIT")).sources["s"]
    assert (report["licence"], report["adapter"]) == ("MIT", "prompts")
    assert list(report["files"]) == [str(path)]


def test_source_without_one_usable_row_is_pointed_out(run, tmp_path, caplog):
    path = prompts_file(tmp_path / "x.jsonl", {"text": "a"})
    result = run(source(path, name="odd"), max_quarantined_share=1)
    assert result.prompts == [] and result.metrics["rows_quarantined"] == 1
    assert "odd: not one usable row" in caplog.text


def test_source_whose_columns_were_renamed_stops_the_stage_with_one_line(run, tmp_path):
    good = prompts_file(tmp_path / "good.jsonl", *ROWS)
    rows = [{"prompt": "a"}, {"prompt": ""}, {"text": "a"}, {"text": "b"}]
    path = prompts_file(tmp_path / "x.jsonl", *rows)
    with pytest.raises(DataError) as caught:
        run(source(good, name="good"), source(path, name="odd"))
    message = str(caught.value)
    assert message.startswith(f"odd: 3 of 4 rows (75.0%) of {path} cannot be used, 2 of them")
    assert "because: field 'prompt' is missing; check that the adapter 'prompts'" in message
    assert message.endswith("raise max_quarantined_share 0.5") and "\n" not in message
    assert not (tmp_path / "out" / "prompts").exists()


def test_share_of_unusable_rows_may_reach_its_limit(run, tmp_path):
    path = prompts_file(tmp_path / "x.jsonl", {"prompt": "a"}, *[{"text": "a"}] * 3)
    assert run(source(path), max_quarantined_share=0.75).texts == ["a"]
    with pytest.raises(DataError, match=r"raise max_quarantined_share 0\.74$"):
        run(source(path), max_quarantined_share=0.74)


words = st.sampled_from(["a", "b", "c", "", "\ud800"])
flags = st.sampled_from([None, True, False])
values = st.none() | st.booleans() | st.integers() | words | st.lists(words, max_size=2)
prompt_rows = st.fixed_dictionaries(
    {"prompt": words | values},
    optional={"category": st.sampled_from(["EHD", "IHD", "NONE", "?"]), "id": st.integers(0, 3)},
)
pair_rows = st.fixed_dictionaries(
    {"prompt": words, "chosen": words, "rejected": words | values},
    optional={
        "dimension": st.sampled_from(["helpful", "harmless"]),
        "chosen_is_safe": flags,
        "category": st.sampled_from(["EHD", "IHD"]),
    },
)
full_rows = st.fixed_dictionaries(
    {
        "prompt": words,
        "response_0": words,
        "response_1": words,
        "is_response_0_safe": flags,
        "is_response_1_safe": flags,
        "better_response_id": st.integers(0, 2),
        "safer_response_id": st.integers(0, 1),
    }
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    prompts=st.lists(prompt_rows, max_size=8),
    pairs=st.lists(pair_rows, max_size=8),
    full=st.lists(full_rows, max_size=6),
    suite=st.sampled_from([None, "suite"]),
)
def test_counts_add_up_whatever_the_rows(tmp_path, prompts, pairs, full, suite):
    folder = tmp_path / f"{random.getrandbits(64):x}"
    contents = {"prompts": prompts, "pairs": pairs, "pku_saferlhf_full": full}
    for adapter, rows in contents.items():
        lines = "".join(json.dumps(row) + "\n" for row in [*rows, 5])
        write(folder / f"{adapter}.jsonl", lines)
    options = {"pairs": {"suite": suite}}
    result = Imported(
        folder / "out",
        *(source(folder / f"{a}.jsonl", a, a, **options.get(a, {})) for a in contents),
        max_quarantined_share=1,
    )
    for adapter, rows in contents.items():
        counts = result.sources[adapter]["counts"]
        assert counts["read"] == len(rows) + 1
        parts = counts["kept"] + counts["quarantined"] + sum(counts["dropped"].values())
        assert counts["read"] == parts
    total = result.metrics
    assert total["rows_read"] == len(prompts) + len(pairs) + len(full) + 3
    assert total["rows_quarantined"] == len(result.quarantine)
    for manifest in result.manifests.values():
        assert manifest.counts.kept == manifest.rows
    ids = [prompt.id for prompt in result.prompts]
    assert len(set(ids)) == len(ids)
    assert {pair.prompt_id for pair in result.pairs} <= set(ids)
    answers = [(p.prompt_id, p.chosen, p.chosen_is_safe) for p in result.pairs]
    answers += [(p.prompt_id, p.rejected, p.rejected_is_safe) for p in result.pairs]
    safe = {answer[:2] for answer in answers if answer[2]}
    assert not safe & {answer[:2] for answer in answers if answer[2] is False}
    orders = {(p.prompt_id, p.dimension, p.chosen, p.rejected) for p in result.pairs}
    assert len(orders) == len(result.pairs)
    assert not orders & {(p, d, rejected, chosen) for p, d, chosen, rejected in orders}


def test_objects_and_folders_of_a_store_are_read_and_named_by_their_uri(run, bucket, tmp_path):
    first = prompts_file(tmp_path / "a.jsonl", {"prompt": "1"}, {"prompt": ""})
    second = write(tmp_path / "b.csv.gz", gzip.compress(b"prompt\n2\n"))
    upload_file(first, f"{bucket}/_raw/set/a.jsonl")
    upload_file(second, f"{bucket}/_raw/set/deep/b.csv.gz")
    upload_file(first, f"{bucket}/_raw/set2/c.jsonl")
    result = run(
        source(f"{bucket}/_raw/set", name="folder"),
        source(f"{bucket}/_raw/set2/c.jsonl", name="object"),
    )
    assert result.texts == ["1", "2"]
    assert [bad.location for bad in result.quarantine] == [
        f"{bucket}/_raw/set/a.jsonl:2",
        f"{bucket}/_raw/set2/c.jsonl:2",
    ]
    assert result.sources["folder"]["counts"]["read"] == 3


@pytest.mark.parametrize("name", ["prompts", "pairs", "quarantine", "sources"])
def test_remote_source_may_have_any_name(run, bucket, tmp_path, name):
    upload_file(prompts_file(tmp_path / "a.jsonl", {"prompt": "1"}), f"{bucket}/{name}/a.jsonl")
    assert run(source(f"{bucket}/{name}", name=name)).texts == ["1"]


@pytest.mark.parametrize(
    ("variable", "words"),
    [("AWS_ACCESS_KEY_ID", "wrong access key"), ("AWS_SECRET_ACCESS_KEY", "wrong secret")],
)
def test_wrong_key_or_secret_is_one_line(run, bucket, tmp_path, monkeypatch, variable, words):
    upload_file(prompts_file(tmp_path / "a.jsonl", {"prompt": "1"}), f"{bucket}/a.jsonl")
    monkeypatch.setenv(variable, "wrong")
    with pytest.raises(StorageError, match=f"^{bucket}/a.jsonl: {words}.*check {variable}$"):
        run(source(f"{bucket}/a.jsonl"))


def test_command_line_ends_a_users_mistake_with_code_2_and_one_line(tmp_path):
    config = json.dumps({"sources": [source(tmp_path / "absent.csv")]})
    outputs = [f"--{name}={tmp_path / name}" for name in ("prompts", "pairs", "quarantine")]
    command = [sys.executable, "-m", "components.import_data.stage", "--config", config, *outputs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as `datasets` asks for: one repository with one file."""

    protocol_version = "HTTP/1.1"
    content = jsonl([{"prompt": "1"}, {"prompt": ""}, {"prompt": "3"}])

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path.endswith("/data.jsonl"):
            return self.answer(self.content, ETag='"1"', **{"X-Repo-Commit": COMMIT})
        if path.startswith("/api/datasets/org/name"):
            files = [{"type": "file", "path": "data.jsonl", "size": len(self.content), "oid": "1"}]
            about = {"_id": "1", "id": "org/name", "sha": COMMIT, "tags": [], "siblings": []}
            is_listing = "/tree/" in path or "/paths-info/" in path
            return self.answer(json.dumps(files if is_listing else about).encode())
        return self.answer(b"{}", 404, **{"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_POST = do_GET

    def answer(self, body, code=200, **headers):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def hub_import(tmp_path, monkeypatch, uri, **environment):
    environment = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0", **environment}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    outputs = [f"--{name}={tmp_path / name}" for name in ("prompts", "pairs", "quarantine")]
    config = json.dumps({"sources": [source(uri)]})
    command = [sys.executable, "-m", "components.import_data.stage", "--config", config, *outputs]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_hub_dataset_is_read_at_the_commit_it_has_now(tmp_path, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        done = hub_import(tmp_path, monkeypatch, "hf://org/name", HF_ENDPOINT=endpoint)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    prompts = read_dataset(tmp_path / "prompts", Prompt)
    assert [prompt.messages[0].content for prompt in prompts] == ["1", "3"]
    (bad,) = read_dataset(tmp_path / "quarantine", QuarantinedRow)
    assert bad.location == "hf://org/name[1]"
    sources = json.loads((tmp_path / "prompts" / "sources.json").read_text())
    assert sources["s"]["files"] == {"hf://org/name": COMMIT}


def test_unreachable_hub_is_one_line(tmp_path, monkeypatch):
    done = hub_import(tmp_path, monkeypatch, "hf://org/name", HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: hf://org/name: the hub did not give it")
    assert done.stderr.count("\n") == 1
