"""The pipeline in containers: `make test-containers` builds the image and runs these."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from equilibrate_core.config import parse_config
from equilibrate_core.errors import StageError
from pipelines.local import Outcome, run_locally
from pipelines.run_config import RunConfig
from tests.pipelines.test_local_run import LAPTOP, tiny_run
from tests.tiny_model import make_tiny_model

pytestmark = [pytest.mark.containers, pytest.mark.filterwarnings("ignore")]
IMAGE = "equilibrate/cpu:0.1.0"
LOCKED_UP = ("--rm", "--network=none", "--read-only", "--cap-drop=ALL")
SECRET = "planted-4f1d9c27e0"


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


def in_image(*command: str) -> subprocess.CompletedProcess[str]:
    return docker("run", *LOCKED_UP, "--tmpfs=/scratch:mode=1777", IMAGE, *command)


def inspect() -> dict[str, Any]:
    return json.loads(docker("image", "inspect", IMAGE).stdout)[0]["Config"]


def test_image_runs_as_nobody_special_on_a_read_only_root() -> None:
    done = in_image("id", "-u")
    assert (done.returncode, done.stdout.strip()) == (0, "1000")
    assert in_image("sh", "-c", "touch /opt/equilibrate/x").returncode != 0


def test_image_holds_no_build_tools() -> None:
    found = in_image("sh", "-c", "command -v gcc g++ make git; python3 -m pip --version; true")
    assert found.stdout == ""


def test_image_is_labelled_with_its_revision_and_healthy() -> None:
    labels = inspect()["Labels"]
    assert len(labels["org.opencontainers.image.revision"].removesuffix("-dirty")) == 40
    kind, *command = inspect()["Healthcheck"]["Test"]
    assert kind == "CMD"
    done = in_image(*command)
    assert done.returncode == 0, done.stderr


def run(values: dict[str, Any], work_dir: Path) -> Outcome:
    values["kubeflow"] |= {f"{pool}_image": IMAGE for pool in ("cpu", "train", "vllm")}
    config = parse_config(values, RunConfig, "container run")
    return run_locally(config, work_dir, "docker")


def tiny(tmp_path: Path) -> dict[str, Any]:
    """The laptop run with a tiny random model, which a container finds in S3 alone."""
    make_tiny_model(tmp_path / "model", max_positions=8192)
    values = tiny_run(tmp_path / "model")
    values["local"]["upload"]["s3://equilibrate/model"] = str(tmp_path / "model")
    values["import_model"] = {"uri": "s3://equilibrate/model"}
    return values


def test_whole_pipeline_runs_in_containers_on_a_tiny_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUILIBRATE_PLANTED", SECRET)  # handed to every container
    outcome = run(tiny(tmp_path), tmp_path / "runs")
    assert outcome.publication["published"]
    assert {result for _, result, _ in outcome.tasks} == {"ran"}
    folder = tmp_path / "runs" / "tiny"
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_failing_container_fails_the_run_with_its_reason(tmp_path: Path) -> None:
    values = tiny(tmp_path)
    values["assemble_dataset"] |= {"strict_quotas": True, "quotas": {"EHD": 9999}}
    with pytest.raises(StageError, match=r"assemble-dataset failed: .*quotas cannot be filled"):
        run(values, tmp_path / "runs")
    assert docker("ps", "--all", "--quiet").stdout == ""


def test_laptop_run_in_containers_publishes(tmp_path: Path) -> None:
    outcome = run(yaml.safe_load(LAPTOP.read_text()), tmp_path / "runs")
    assert outcome.publication["published"]
    report = json.loads((outcome.folder / "report.json").read_text())
    assert report["gate"]["label"] == "mechanics only"
