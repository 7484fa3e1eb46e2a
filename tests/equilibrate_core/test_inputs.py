import json

import pytest

from components.import_data.config import ImportDataConfig
from components.import_model.config import ImportModelConfig
from equilibrate_core.errors import DataError
from equilibrate_core.inputs import check_unchanged, pinned, uri_digest
from equilibrate_core.s3 import put_if_absent, read_object, replace_if_match

pytest_plugins = ["tests.s3_store"]


def digests(*uris):
    return json.dumps({str(uri): uri_digest(str(uri), "dataset") for uri in uris})


def test_input_that_changed_since_the_run_began_is_noticed_where_it_is_read(tmp_path):
    read, other = tmp_path / "read.csv", tmp_path / "other.csv"
    for path in (read, other):
        path.write_text("prompt\nx\n")
    section = {"sources": [{"name": "s", "uri": str(read)}], "limit": 3}
    before = digests(read, other)
    other.write_text("prompt\ny\n")
    check_unchanged(before, section, "dataset")
    read.write_text("prompt\ny\n")
    with pytest.raises(DataError, match=r"read\.csv: was changed after the run had begun"):
        check_unchanged(before, section, "dataset")


def test_object_that_was_written_anew_is_noticed(bucket):
    uri = f"{bucket}/set/x"
    put_if_absent(uri, b"1")
    before = digests(f"{bucket}/set")
    section = {"data_uri": f"{bucket}/set"}
    check_unchanged(before, section, "dataset")
    replace_if_match(uri, b"2", read_object(uri)[1])
    with pytest.raises(DataError, match="start the run again"):
        check_unchanged(before, section, "dataset")


COMMIT = "c" * 40


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"uri": "hf://org/base"}, "hf://org/base"),
        ({"uri": "hf://org/base", "revision": "main"}, "hf://org/base@main"),
        ({"uri": "hf://org/base@v1"}, "hf://org/base@v1"),
    ],
)
def test_a_hub_model_is_read_at_the_commit_that_the_run_began_with(given, key):
    before = json.dumps({key: f"hf:{COMMIT}", "hf://org/other": "hf:" + "d" * 40})
    section = pinned(ImportModelConfig(**given, dtype="bfloat16"), before)
    assert section == ImportModelConfig(uri=f"hf://org/base@{COMMIT}", dtype="bfloat16")
    # A push after the beginning is no reason to stop: what was read is what was resolved.
    check_unchanged(before, section.model_dump(mode="json"), "model")


def test_hub_sources_are_pinned_each_by_itself_and_others_stay():
    uris = ["hf://org/set/english@main", "s3://bucket/x", "hf://org/unresolved"]
    sources = [{"name": f"s{n}", "uri": uri, "adapter": "pairs"} for n, uri in enumerate(uris)]
    before = json.dumps({uris[0]: f"hf:{COMMIT}", uris[1]: "s3:1"})
    section = pinned(ImportDataConfig(sources=sources), before)
    expected = [f"hf://org/set/english@{COMMIT}", *uris[1:]]
    assert [source.uri for source in section.sources] == expected
    assert pinned(section, "{}") is section
