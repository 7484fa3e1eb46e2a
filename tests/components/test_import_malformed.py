"""Malformed rows, thrown at every adapter: none is lost, none breaks the stage."""

import csv
import io
import json
import tempfile
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.import_data.adapters import ADAPTERS
from components.import_data.config import ImportDataConfig
from components.import_data.readers import read_file
from components.import_data.rows import QuarantinedRow
from components.import_data.stage import import_data
from equilibrate_core.config import parse_config
from equilibrate_core.records import Pair, Prompt
from equilibrate_core.tables import read_dataset

OUTPUTS = ("prompts", "pairs", "quarantine", "labelled_answers")
TURN = {"from": "human", "value": "Hello?"}
GOOD = {
    "equilibrate": {"question_y": "Why?", "category": "EHD", "id": 1},
    "pku_saferlhf": {"prompt": "Why?", "response": ["no", "yes"]},
    "pku_saferlhf_full": {
        "prompt": "Why?",
        "response_0": "no",
        "response_1": "yes",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        "better_response_id": 1,
        "safer_response_id": 0,
    },
    "hh_rlhf": {
        "chosen": "\n\nHuman: Why?\n\nAssistant: no",
        "rejected": "\n\nHuman: Why?\n\nAssistant: yes",
    },
    "dpo_demo": {
        "conversations": [TURN],
        "chosen": {"from": "gpt", "value": "no"},
        "rejected": {"from": "gpt", "value": "yes"},
    },
    "xstest": {"prompt": "Why?", "label": "safe", "id": 1, "type": "t"},
    "or_bench": {"prompt": "Why?", "category": "c"},
    "harmbench": {"Behavior": "Why?", "ContextString": "c", "BehaviorID": "b", "Tags": "t"},
    "strongreject": {"forbidden_prompt": "Why?", "category": "c"},
    "beavertails_evaluation": {"prompt": "Why?", "category": "c"},
    "safe_rlhf_problem_83": {"prompt": "Why?", "category": "c"},
    "simple_safety_tests": {"prompts_final": "Why?", "harm_area": "h"},
    "mt_bench": {"turns": ["Why?", "Go on."], "reference": ["so"], "question_id": 1},
    "alpaca_eval": {"instruction": "Why?", "output": "so", "dataset": "d"},
    "wildchat": {"conversation": [{"role": "user", "content": "Why?"}], "language": "English"},
    "prompts": {"prompt": "Why?", "category": "IHD", "label": "unsafe", "references": ["so"]},
    "pairs": {"prompt": "Why?", "chosen": "no", "rejected": "yes", "dimension": "helpful"},
    "answers": {"prompt": "Why?", "answer": "no", "is_safe": True, "refusal": "Refusal"},
    "gptfuzz": {"question": "80", "Response": "no", "label": "0"},
    "pyrit_refusal": {"objective": "Why?", "assistant_response": "no", "human_score": "1"},
}

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", " ", "\ud800", "\0", "EHD", "safe", "\n\nHuman: a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def lines(draw, adapter):
    """One line: a good row, a row with fields replaced or missing, or no row at all."""
    row = json.loads(json.dumps(GOOD[adapter]))
    for name in draw(st.lists(st.sampled_from(sorted(row)), max_size=3, unique=True)):
        if draw(st.booleans()):
            row.pop(name)
        else:
            row[name] = draw(anything)
    line = json.dumps(row).encode()
    fate = draw(st.integers(0, 9))
    if fate == 0:
        return line[: draw(st.integers(1, len(line)))]
    if fate == 1:
        return json.dumps(draw(anything)).encode()
    if fate == 2:
        noise = draw(st.binary(min_size=1, max_size=20))
        return bytes(b for b in noise if b not in b"\n\r") or b"?"
    return line


cells = st.text(st.characters(exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["", " ", '"', "\n", "\ud800", "EHD", "safe", "true", "[]", "\n\nHuman: a\n\nAssistant: b"]
)


@st.composite
def csv_files(draw, adapter):
    """A header of some of the adapter's columns, then good and other cells, stray characters."""
    good = {k: v if isinstance(v, str) else json.dumps(v) for k, v in GOOD[adapter].items()}
    header = draw(st.lists(st.sampled_from(sorted(good)), min_size=1, unique=True))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    for _ in range(draw(st.integers(0, 8))):
        writer.writerow([draw(cells) if draw(st.booleans()) else good[name] for name in header])
        text.write(draw(st.sampled_from(["", "", "", '"', ",", "\r\n", "stray\n"])))
    return text.getvalue().encode("utf-8", "surrogatepass")


@st.composite
def arrays(draw, adapter):
    """A JSON array of good rows, rows with fields replaced, and what is no row."""
    rows = [GOOD[adapter]]
    for _ in range(draw(st.integers(0, 8))):
        changed = draw(st.dictionaries(st.sampled_from(sorted(GOOD[adapter])), anything))
        rows.append(draw(anything | st.just({**GOOD[adapter], **changed})))
    return json.dumps(rows, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def imported(folder, adapter, content, name="rows.jsonl"):
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    source = {"name": "s", "uri": str(folder / name), "adapter": adapter}
    config = parse_config(
        {"sources": [source], "max_quarantined_share": 1}, ImportDataConfig, "test"
    )
    metrics = import_data(config, **{name: folder / name for name in OUTPUTS})
    return metrics, json.loads((folder / "prompts" / "sources.json").read_text())["s"]["counts"]


def test_every_adapter_has_a_good_row():
    assert set(GOOD) == set(ADAPTERS)


@pytest.mark.parametrize("adapter", sorted(GOOD))
def test_the_good_row_is_kept(tmp_path, adapter):
    content = json.dumps(GOOD[adapter]).encode()
    metrics, _ = imported(tmp_path / "a", adapter, content)
    assert (metrics["rows_kept"], metrics["rows_quarantined"]) == (1, 0)


@pytest.mark.parametrize("adapter", sorted(GOOD))
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_counts_add_up_whatever_is_thrown_at_an_adapter(tmp_path, adapter, data):
    rows = data.draw(st.lists(lines(adapter), max_size=12))
    good = json.dumps(GOOD[adapter]).encode()
    # hypothesis seeds `random`: a name drawn from it would come again.
    folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "import"
    metrics, counts = imported(folder, adapter, b"\n".join([good, *rows]))
    check(folder, metrics, counts, 1 + sum(bool(row.strip()) for row in rows))


@pytest.mark.parametrize(("name", "files"), [("rows.csv", csv_files), ("rows.json", arrays)])
@pytest.mark.parametrize("adapter", sorted(GOOD))
@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_counts_add_up_for_csv_files_and_json_arrays_too(tmp_path, adapter, name, files, data):
    content = data.draw(files(adapter))
    folder = Path(tempfile.mkdtemp(dir=tmp_path)) / "import"
    metrics, counts = imported(folder, adapter, content, name)
    is_array = name == "rows.json"
    read = json.loads(content) if is_array else list(chain(*read_file(folder / name, name)))
    check(folder, metrics, counts, len(read))


def check(folder, metrics, counts, num_rows):
    assert counts["read"] == metrics["rows_read"] == num_rows
    assert num_rows == counts["kept"] + counts["quarantined"] + sum(counts["dropped"].values())
    bad = read_dataset(folder / "quarantine", QuarantinedRow)
    assert len(bad) == counts["quarantined"]
    assert all(row.reason and row.location for row in bad)
    ids = {prompt.id for prompt in read_dataset(folder / "prompts", Prompt)}
    assert {pair.prompt_id for pair in read_dataset(folder / "pairs", Pair)} <= ids
