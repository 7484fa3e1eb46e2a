import json
from pathlib import Path

import pytest

from components.import_data.config import ImportDataConfig
from components.resolve_inputs.component import resolve_inputs as component
from components.resolve_inputs.config import ResolveInputsConfig
from components.resolve_inputs.stage import resolve_inputs
from equilibrate_core.digests import code_digest
from equilibrate_core.errors import DataError, StorageError
from equilibrate_core.s3 import put_if_absent, read_object, replace_if_match

pytest_plugins = ["tests.s3_store"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def resolved(*uris, sources=()):
    config = ResolveInputsConfig(sources=[{"uri": uri} for uri in sources], uris=uris)
    return json.loads(resolve_inputs(config))


def test_sources_of_import_data_are_taken_as_they_stand_in_the_run_file(tmp_path):
    (tmp_path / "x.csv").write_text("prompt\nx\n")
    sections = [{"name": "s", "uri": str(tmp_path / "x.csv"), "adapter": "prompts", "limit": 3}]
    as_text = ResolveInputsConfig(sources=sections)
    as_models = ResolveInputsConfig(sources=ImportDataConfig(sources=sections).sources)
    assert resolve_inputs(as_text) == resolve_inputs(as_models)


def test_result_is_one_compact_line_that_does_not_depend_on_the_order(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    one, two = str(tmp_path / "a"), str(tmp_path / "b")
    text = resolve_inputs(ResolveInputsConfig(uris=(one, two)))
    assert text == resolve_inputs(ResolveInputsConfig(uris=(two, one)))
    assert "\n" not in text and " " not in text.replace(str(tmp_path), "")


def test_local_digest_follows_names_and_content_but_not_times(tmp_path):
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    path = folder / "deep" / "x"
    path.write_text("1")
    before = resolved(str(folder), str(path))
    path.write_text("1")
    assert resolved(str(folder), str(path)) == before
    path.write_text("2")
    changed = resolved(str(folder), str(path))
    assert all(changed[uri] != before[uri] for uri in before)
    path.rename(folder / "deep" / "y")
    assert resolved(str(folder))[str(folder)] != changed[str(folder)]


def test_digest_of_objects_follows_their_content(bucket):
    put_if_absent(f"{bucket}/set/x", b"1")
    uris = [f"{bucket}/set", f"{bucket}/set/x"]
    before = resolved(sources=uris)
    assert resolved(sources=uris) == before
    replace_if_match(f"{bucket}/set/x", b"2", read_object(f"{bucket}/set/x")[1])
    after = resolved(sources=uris)
    assert all(after[uri] != before[uri] for uri in uris)


def test_pinned_hub_repositories_need_no_hub():
    uris = (f"hf://org/name@{COMMIT}", f"hf://datasets/org/name@{COMMIT}")
    assert resolved(*uris) == dict.fromkeys(uris, f"hf:{COMMIT}")


@pytest.mark.parametrize("uri", ["hf://name", "hf://a/b/c/d", "hf://"])
def test_unsound_hub_uris_are_refused(uri):
    with pytest.raises(DataError, match="not a hub URI; expected hf://org/name"):
        resolved(uri)


def test_absent_file_and_empty_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="absent: no such file or folder"):
        resolved(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="an empty folder"):
        resolved(str(tmp_path))


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_key_or_secret_is_one_line(bucket, monkeypatch, variable):
    monkeypatch.setenv(variable, "wrong")
    with pytest.raises(StorageError, match=f"^{bucket}/x: wrong .*check {variable}$"):
        resolved(f"{bucket}/x")


def test_component_returns_the_text_and_ends_a_users_mistake_with_code_2(tmp_path, capsys):
    data, model = (str(tmp_path / name) for name in ("data", "model"))
    for path in (data, model):
        Path(path).write_text(path)
    run = component.python_func
    good = json.dumps({"sources": [{"uri": data}], "uris": [model]})
    sources, others, news = run(config=good, code_digest=code_digest("resolve_inputs"))
    assert json.loads(sources) == resolved(data)
    assert json.loads(others) == resolved(model)
    assert news == "changed"
    with pytest.raises(SystemExit) as caught:
        run(
            config=json.dumps({"uris": [str(tmp_path / "absent")]}),
            code_digest=code_digest("resolve_inputs"),
        )
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    with pytest.raises(SystemExit) as caught:
        run(config=good, code_digest="0123456789abcdef")
    assert caught.value.code == 2
    assert "resolve_inputs: the pipeline was made with code 0123" in capsys.readouterr().err
