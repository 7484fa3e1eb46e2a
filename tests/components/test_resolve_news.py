"""Is there anything new? Inputs, settings, the last completed run and what it published."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.record_run.config import RecordRunConfig
from components.record_run.stage import record_run
from components.resolve_inputs.config import CHANGED, NOTHING_NEW, ResolveInputsConfig
from components.resolve_inputs.news import find_news
from components.resolve_inputs.stage import resolve_inputs
from equilibrate_core.errors import ConfigError
from equilibrate_core.json_objects import read_json_object, write_json_object
from equilibrate_core.s3 import put_if_absent, upload_file
from equilibrate_core.s3_client import connect
from equilibrate_core.s3_uris import parse_uri

pytest_plugins = ["tests.s3_store"]


class Weekly:
    """A pipeline whose runs resolve their inputs and end, as on a cluster."""

    def __init__(self, bucket: str) -> None:
        self.bucket, self.records = bucket, f"{bucket}/records"
        self.runs = 0
        put_if_absent(f"{bucket}/data/a.jsonl", b"1")

    def resolve(self, settings: str = "s") -> str:
        self.runs += 1
        config = ResolveInputsConfig(
            sources=[{"uri": f"{self.bucket}/data"}],
            skip_unchanged=True,
            pipeline="weekly",
            records_uri=self.records,
            published_uri=f"{self.bucket}/models/weekly",
        )
        run_id = f"run-{self.runs}"
        return find_news(config, resolve_inputs(config), run_id=run_id, settings=settings)

    def end(self, state: str = "COMPLETE", run: int | None = None) -> None:
        run_id = f"run-{run or self.runs}"
        config = RecordRunConfig(destination_uri=self.records, pipeline="weekly")
        record_run(
            config, run_name="weekly", state=state, error_code=0, error_message="", run_id=run_id
        )

    def reason(self) -> str:
        return read_json_object(f"{self.records}/inputs/run-{self.runs}.json")["reason"]

    def publish(self, tmp_path: Path) -> str:
        uri = f"{self.bucket}/models/weekly/sha256-1"
        (tmp_path / "weights").write_bytes(b"weights")
        upload_file(tmp_path / "weights", f"{uri}/weights")
        sha256 = connect().head_object(**place(f"{uri}/weights"))["Metadata"]["sha256"]
        files = {"weights": {"sha256": sha256, "num_bytes": 7}}
        write_json_object(f"{uri}/manifest.json", {"files": files})
        write_json_object(f"{self.bucket}/models/weekly/latest.json", {"uri": uri})
        return uri


def place(uri: str) -> dict[str, Any]:
    parsed = parse_uri(uri)
    return {"Bucket": parsed.bucket, "Key": parsed.key}


@pytest.fixture
def weekly(bucket: str) -> Weekly:
    return Weekly(bucket)


def test_only_a_completed_run_makes_the_next_one_skip(weekly: Weekly) -> None:
    assert weekly.resolve() == CHANGED
    assert weekly.reason() == "no run has completed yet"
    weekly.end("FAILED")
    assert weekly.resolve() == CHANGED
    weekly.end("COMPLETE")
    assert weekly.resolve() == NOTHING_NEW
    weekly.end("COMPLETE")
    assert weekly.resolve() == NOTHING_NEW


@pytest.mark.parametrize("change", ["add", "alter", "delete"])
def test_added_altered_and_deleted_objects_are_noticed(weekly: Weekly, change: str) -> None:
    put_if_absent(f"{weekly.bucket}/data/b.jsonl", b"2")
    weekly.resolve()
    weekly.end()
    if change == "add":
        put_if_absent(f"{weekly.bucket}/data/c.jsonl", b"3")
    elif change == "alter":
        connect().put_object(**place(f"{weekly.bucket}/data/b.jsonl"), Body=b"9")
    else:
        connect().delete_object(**place(f"{weekly.bucket}/data/b.jsonl"))
    assert weekly.resolve() == CHANGED
    assert weekly.reason() == f"changed inputs: {weekly.bucket}/data"


def test_changed_settings_are_news(weekly: Weekly) -> None:
    weekly.resolve("beta 0.1")
    weekly.end()
    assert weekly.resolve("beta 0.2") == CHANGED
    assert weekly.reason() == "the settings or the code changed"


@pytest.mark.parametrize("harm", ["deleted", "altered", "manifest", "latest"])
def test_a_damaged_publication_is_made_good(weekly: Weekly, tmp_path: Path, harm: str) -> None:
    weekly.resolve()
    uri = weekly.publish(tmp_path)
    weekly.end()
    assert weekly.resolve() == NOTHING_NEW
    if harm == "altered":
        connect().put_object(**place(f"{uri}/weights"), Body=b"wEights")
    elif harm == "latest":
        connect().delete_object(**place(f"{weekly.bucket}/models/weekly/latest.json"))
    else:
        name = "manifest.json" if harm == "manifest" else "weights"
        connect().delete_object(**place(f"{uri}/{name}"))
    assert weekly.resolve() == CHANGED
    assert "the published model is damaged" in weekly.reason()


def test_a_cleaned_bucket_is_news_until_a_run_has_completed_again(
    weekly: Weekly, tmp_path: Path
) -> None:
    weekly.resolve()
    uri = weekly.publish(tmp_path)
    weekly.end()
    latest = f"{weekly.bucket}/models/weekly/latest.json"
    for gone in (f"{uri}/weights", f"{uri}/manifest.json", latest):
        connect().delete_object(**place(gone))
    assert [weekly.resolve(), weekly.resolve()] == [CHANGED, CHANGED]
    assert f"{latest} is gone" in weekly.reason()
    weekly.end()  # the gate refused this time: nothing was published, and nothing is missing
    assert weekly.resolve() == NOTHING_NEW


def test_a_record_that_does_not_say_what_was_published_is_no_reason_to_skip(
    weekly: Weekly,
) -> None:
    weekly.resolve()
    weekly.end()
    completed = f"{weekly.records}/completed/weekly.json"
    record = read_json_object(completed)
    assert record is not None and record.pop("published") is None
    write_json_object(completed, record)
    assert weekly.resolve() == CHANGED
    weekly.end()
    assert weekly.resolve() == NOTHING_NEW


def test_a_file_that_was_published_under_another_name_is_no_damage(
    weekly: Weekly, tmp_path: Path
) -> None:
    weekly.resolve()
    uri = weekly.publish(tmp_path)
    weekly.end()
    (tmp_path / "card").write_bytes(b"the model card of this run")
    upload_file(tmp_path / "weights", f"{uri}/original.weights")
    upload_file(tmp_path / "card", f"{uri}/weights")
    assert weekly.resolve() == NOTHING_NEW
    upload_file(tmp_path / "card", f"{uri}/original.weights")
    assert weekly.resolve() == CHANGED


def test_of_two_runs_at_once_each_keeps_its_own_notes(weekly: Weekly) -> None:
    weekly.resolve()
    put_if_absent(f"{weekly.bucket}/data/b.jsonl", b"2")
    weekly.resolve()
    weekly.end(run=2)
    weekly.end(run=1)  # the older data ends last: what it saw is not what is there now
    assert weekly.resolve() == CHANGED


def test_by_default_every_run_goes_on_and_writes_nothing(tmp_path: Path) -> None:
    assert find_news(ResolveInputsConfig(), "{}", run_id="", settings="") == CHANGED


def test_skipping_needs_to_know_where_the_records_are() -> None:
    with pytest.raises(ConfigError, match="needs pipeline, records_uri and a run id"):
        find_news(ResolveInputsConfig(skip_unchanged=True), "{}", run_id="r", settings="")


def test_records_may_lie_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("1")
    config = ResolveInputsConfig(
        uris=[str(tmp_path / "x")],
        skip_unchanged=True,
        pipeline="p",
        records_uri=str(tmp_path / "records"),
    )
    news = find_news(config, resolve_inputs(config), run_id="1", settings="")
    assert news == CHANGED
    assert json.loads((tmp_path / "records/inputs/1.json").read_text())["news"] == CHANGED
