"""The command: exit codes, one clear line for a mistake, every stage reachable."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from equilibrate_core.config import StageConfig
from pipelines.cli import STAGES, main
from tests.tiny_model import make_tiny_model

LAPTOP = str(Path(__file__).parents[2] / "pipelines" / "configs" / "laptop.yaml")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["equilibrate", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize(("name", "config"), STAGES.items())
def test_every_stage_has_its_function_and_config(name: str, config: str) -> None:
    assert callable(getattr(importlib.import_module(f"components.{name}.stage"), name))
    config_type = getattr(importlib.import_module(f"components.{name}.config"), config)
    assert issubclass(config_type, StageConfig)
    for field_name, field in config_type.model_fields.items():
        assert field.description, f"{config}.{field_name} has no docstring"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--config", "none.yaml"], "none.yaml: no such config file"),
        (["run", "--config", LAPTOP, "--runner", "slurm"], "choose subprocess or docker"),
        (["stage", "no_such"], "no stage 'no_such'"),
        (["compile", "--config", LAPTOP, "-o", "x.json"], "must end in .yaml"),
        (["report", "nowhere"], "no report.json there"),
        (
            ["stage", "import_model", "--config", '{"uri": "/nowhere"}', "--base-model", "x"],
            "/nowhere: no such folder",
        ),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_an_unknown_command_exits_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "fly") == 2
    assert "No such command" in capsys.readouterr().err


def test_a_stage_runs_alone_on_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_tiny_model(tmp_path / "source")
    config = json.dumps({"uri": str(tmp_path / "source")})
    base = str(tmp_path / "base")
    assert call(monkeypatch, "stage", "import_model", "--config", config, "--base-model", base) == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "import_model"
    assert (tmp_path / "base" / "manifest.json").is_file()


def test_stage_help_names_every_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "stage", "score_tokens", "-h") == 0
    shown = capsys.readouterr().out
    for option in ("--pairs", "--reward-model", "--cost-model", "--scored-pairs", "--config"):
        assert option in shown


def test_validate_offline_says_the_file_is_sound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "validate", "--config", LAPTOP, "--offline") == 0
    assert "valid run 'laptop'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "path", sorted(Path(LAPTOP).parent.glob("*.yaml")), ids=lambda path: path.stem
)
def test_validate_offline_takes_every_run_file_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    assert call(monkeypatch, "validate", "--config", str(path), "--offline") == 0
    assert f"valid run {path.stem!r}" in capsys.readouterr().out


def judged_by(url: str, folder: Path) -> str:
    """A run file without sources to reach, whose judge is a server with a key."""
    values = yaml.safe_load(Path(LAPTOP).read_text())
    values["import_model"] = {"uri": str(folder)}
    server = {"backend": "endpoint", "endpoint_url": url, "endpoint_model": "judge"}
    values["classify_prompts"] = {"judge": server | {"api_key_env": "NO_SUCH_JUDGE_KEY"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "run.yaml")


@pytest.mark.parametrize(
    "host", ["equilibrate-judge", "judge.nowhere.svc", "judge.nowhere.svc.cluster.local"]
)
def test_validate_outside_a_cluster_warns_of_a_judge_inside_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, host: str
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    path = judged_by(f"http://{host}:8000/v1", tmp_path)
    assert call(monkeypatch, "validate", "--config", path) == 0
    shown = capsys.readouterr()
    assert f"warning: classify_prompts.judge: http://{host}:8000/v1/models is an addr" in shown.err
    assert "judge_responses.judge: in-process" in shown.out
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert call(monkeypatch, "validate", "--config", path) == 2
    monkeypatch.setenv("NO_SUCH_JUDGE_KEY", "x")
    assert call(monkeypatch, "validate", "--config", path) == 2
    assert "no answer" in capsys.readouterr().err


def test_validate_does_not_excuse_a_judge_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for url in ("http://127.0.0.1:9/v1", "http://localhost:9/v1"):
        path = judged_by(url, tmp_path)
        monkeypatch.delenv("NO_SUCH_JUDGE_KEY", raising=False)
        assert call(monkeypatch, "validate", "--config", path) == 2
        assert "NO_SUCH_JUDGE_KEY is not set" in capsys.readouterr().err
        monkeypatch.setenv("NO_SUCH_JUDGE_KEY", "x")
        assert call(monkeypatch, "validate", "--config", path) == 2
        assert "no answer" in capsys.readouterr().err


def test_validate_warns_of_processes_without_an_accelerator_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    values = yaml.safe_load(Path(LAPTOP).read_text())
    values["train_policy"]["num_processes"] = 2
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    path = str(tmp_path / "run.yaml")
    assert call(monkeypatch, "validate", "--config", path, "--offline") == 0
    assert "warning: train_policy.num_processes: 2, but its task" in capsys.readouterr().err


@pytest.mark.parametrize(("run", "warned"), [("laptop", True), ("refused", False)])
def test_validate_warns_of_a_gate_that_asks_nothing_about_safety(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: str, warned: bool
) -> None:
    file = str(Path(LAPTOP).with_name(f"{run}.yaml"))
    assert call(monkeypatch, "validate", "--config", file, "--offline") == 0
    said = "warning: write_report.gate asks for nothing about safety or over-refusal"
    assert (said in capsys.readouterr().err) is warned


@pytest.mark.parametrize(
    ("uri", "is_on", "warned"),
    [
        ("s3://company/models", True, True),
        ("s3://company/models", False, False),
        ("s3://equilibrate/models", True, False),
    ],
)
def test_validate_warns_of_buckets_that_the_store_on_this_machine_will_stand_in_for(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    uri: str,
    is_on: bool,
    warned: bool,
) -> None:
    values = yaml.safe_load(Path(LAPTOP).read_text())
    values["publish_model"]["destination_uri"] = uri
    values["local"]["object_store"] = is_on
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    path = str(tmp_path / "run.yaml")
    assert call(monkeypatch, "validate", "--config", path, "--offline") == 0
    said = f"every s3:// URI on this machine, also {uri}; set local: {{object_store: false}}"
    assert (said in capsys.readouterr().err) is warned


def test_report_prints_the_summary_and_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text('{"summary": ["one", "two"]}')
    assert call(monkeypatch, "report", str(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["one", "two"]
    assert lines[2].endswith("report.html")
