"""Artifacts are whole or absent; readers notice every change; counts add up."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from equilibrate_core.artifacts import (
    Counts,
    StageRun,
    read_manifest,
    verify_artifact,
    write_json,
    write_text,
)
from equilibrate_core.errors import ArtifactError, StageError
from equilibrate_core.records import LabelledPrompt, Message, Pair, Prompt, pair_id, prompt_id
from equilibrate_core.tables import iter_dataset, read_dataset, write_dataset

RUN = StageRun(stage="test", config={"a": 1}, seed=7, code_version="c", inputs={"x": "d"})
MESSAGES = (Message(role="user", content="hi"),)
ROWS = [
    LabelledPrompt(
        id="1",
        messages=MESSAGES,
        source="s",
        category="EHD",
        rationale="因为",
        confidence=0.5,
        votes={"EHD": 1, "NONE": 1},
        status="scored",
        judge="j",
        references=("a", "b"),
        metadata={"k": "v"},
    ),
    LabelledPrompt(
        id="2",
        messages=MESSAGES,
        source="s",
        category=None,
        rationale="",
        confidence=None,
        votes={},
        status="unscored",
        error="time-out",
        judge="j",
    ),
]


def dataset(path: Path) -> Path:
    write_dataset(RUN, path, LabelledPrompt, ROWS)
    return path


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    assert read_dataset(dataset(tmp_path / "a"), LabelledPrompt) == ROWS


def test_an_empty_dataset_comes_back_empty(tmp_path: Path) -> None:
    write_dataset(RUN, tmp_path / "a", Prompt, [])
    assert read_dataset(tmp_path / "a", Prompt) == []
    assert read_manifest(tmp_path / "a").rows == 0


def test_many_rows_keep_their_order_over_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("equilibrate_core.tables.ROWS_PER_FILE", 3)
    rows = [ROWS[0].model_copy(update={"id": str(i)}) for i in range(9)]
    write_dataset(RUN, tmp_path / "a", LabelledPrompt, rows)
    assert [row.id for row in iter_dataset(tmp_path / "a", LabelledPrompt)] == list("012345678")


def test_an_error_half_way_leaves_nothing(tmp_path: Path) -> None:
    def rows():
        yield ROWS[0]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_dataset(RUN, tmp_path / "a", LabelledPrompt, rows())
    assert list(tmp_path.iterdir()) == []


def test_a_retry_clears_what_a_killed_attempt_left(tmp_path: Path) -> None:
    draft = tmp_path / ".a.draft"
    draft.mkdir()
    (draft / "data-00000.parquet").write_text("half")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "rest").write_text("old")
    assert read_dataset(dataset(tmp_path / "a"), LabelledPrompt) == ROWS
    assert not draft.exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: (a / "manifest.json").unlink(), "not an artifact"),
        (lambda a: (a / "data-00000.parquet").unlink(), "missing"),
        (lambda a: (a / "extra").write_text("x"), "not in the manifest"),
        (lambda a: (a / "manifest.json").write_text("{}"), "unreadable"),
        (
            lambda a: (a / "data-00000.parquet").write_bytes(
                (a / "data-00000.parquet").read_bytes()[:-1] + b"?"
            ),
            "content differs",
        ),
    ],
)
def test_a_reader_notices(tmp_path: Path, damage, message: str) -> None:
    artifact = dataset(tmp_path / "a")
    damage(artifact)
    with pytest.raises(ArtifactError, match=message):
        read_dataset(artifact, LabelledPrompt)


def test_an_absent_artifact_and_a_wrong_kind_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such artifact"):
        verify_artifact(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="holds 'LabelledPrompt', but 'Prompt' is needed"):
        read_dataset(dataset(tmp_path / "a"), Prompt)


def test_equal_content_has_an_equal_digest_whenever_it_was_made(tmp_path: Path) -> None:
    first, second = (read_manifest(dataset(tmp_path / name)) for name in "ab")
    assert first.ended != second.ended
    assert first.digest == second.digest
    write_dataset(RUN, tmp_path / "c", LabelledPrompt, ROWS[:1])
    assert read_manifest(tmp_path / "c").digest != first.digest


def test_the_manifest_says_where_it_came_from(tmp_path: Path) -> None:
    manifest = read_manifest(dataset(tmp_path / "a"))
    assert (manifest.stage, manifest.seed, manifest.inputs) == ("test", 7, {"x": "d"})
    assert manifest.started <= manifest.ended


def test_counts_that_do_not_add_up_write_nothing(tmp_path: Path) -> None:
    counts = Counts(read=3, kept=1, dropped={"long": 1})
    with pytest.raises(StageError, match="do not add up"):
        write_dataset(RUN, tmp_path / "a", LabelledPrompt, ROWS, counts=counts)
    assert not (tmp_path / "a").exists()


def test_ids_ignore_white_space_but_not_roles() -> None:
    one = prompt_id([Message(role="user", content="a  b\n")])
    assert one == prompt_id([Message(role="user", content="a b")])
    assert one != prompt_id([Message(role="system", content="a b")])
    assert pair_id("p", "a", "b", "helpful") != pair_id("p", "b", "a", "helpful")


def test_a_pair_refuses_blank_answers() -> None:
    fields = {"id": "1", "prompt_id": "p", "messages": MESSAGES, "dimension": "helpful"}
    with pytest.raises(ValueError, match="chosen"):
        Pair(**fields, chosen=" \n", rejected="x", source="s")


def test_several_writers_of_one_file_do_not_take_it_from_each_other(tmp_path: Path) -> None:
    texts = [f"writer {number}" for number in range(8)]
    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(lambda text: [write_text(tmp_path / "x", text) for _ in range(25)], texts))
    assert (tmp_path / "x").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
