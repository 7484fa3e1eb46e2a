import json

import pytest

from equilibrate_core.errors import DataError
from equilibrate_core.inputs import check_unchanged, uri_digest
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
