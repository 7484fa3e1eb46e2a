"""Interrupted equals uninterrupted; a slow store or an altered checkpoint ends no run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from equilibrate_core.checkpoints import checkpoints_of
from equilibrate_core.training_config import TrainingConfig
from tests.components.scoring_fixtures import as_dataset, harm_pairs
from tests.equilibrate_core.checkpoint_fixtures import newest, run_of, write_checkpoint

pytest_plugins = ["tests.s3_store"]
ROOT = Path(__file__).parents[2]
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")


def run_program(
    name: str, *arguments: str, launcher: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *launcher, f"tests.equilibrate_core.{name}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def interrupted(folder: Path, uri: str, *points: str) -> tuple[list[int], str]:
    done = run_program("interrupted_runs", str(folder), uri, *points)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def log_of(model: Path) -> list[dict[str, float]]:
    lines = (model / "training_log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "tokens_per_s"} for x in lines]


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with inputs, and the scorer that an uninterrupted run made of them."""
    folder = tmp_path_factory.mktemp("runs")
    as_dataset(folder / "pairs", harm_pairs(24))
    (folder / "model").symlink_to(tiny_model)
    codes, errors = interrupted(folder, "none", "-")
    assert codes == [0], errors[-3000:]
    return folder


def assert_same_scorer(runs: Path) -> None:
    whole, resumed = runs / "uninterrupted", runs / "resumed"
    assert (whole / "model.safetensors").read_bytes() == (
        resumed / "model.safetensors"
    ).read_bytes()
    assert log_of(resumed) == log_of(whole)
    assert [record["step"] for record in log_of(resumed)] == list(range(1, 11))
    counts = [json.loads((x / "manifest.json").read_text())["counts"] for x in (whole, resumed)]
    assert counts[0] == counts[1]


def test_killed_at_any_moment_and_started_again_equals_uninterrupted(runs: Path) -> None:
    shutil.rmtree(runs / "resumed", ignore_errors=True)
    uri = runs / "checkpoints"
    # 10 steps, a checkpoint every 2, three files by torch each: killed before the first one is
    # whole, between two, while one is written, before it is renamed, while an old one is removed.
    points = ["step:1", "save:2", "publish:1", "step:3", "save:2", "publish:2", "remove:1", "-"]
    codes, errors = interrupted(runs, str(uri), *points)
    assert codes == [-9] * 7 + [0], errors[-3000:]
    assert "resuming after step 2" in errors
    assert_same_scorer(runs)
    (prefix,) = uri.iterdir()
    names = sorted(path.name[:13] for path in prefix.iterdir() if path.is_dir())
    assert names == ["step-00000008", "step-00000010"]


def test_killed_while_uploading_to_s3_and_started_again_equals_uninterrupted(
    runs: Path, bucket: str
) -> None:
    shutil.rmtree(runs / "resumed", ignore_errors=True)
    codes, errors = interrupted(runs, f"{bucket}/checkpoints", "upload:6", "-")
    assert codes == [-9, 0], errors[-3000:]
    assert "resuming after step 2" in errors
    assert_same_scorer(runs)


def test_sigterm_under_torchrun_saves_and_exits_with_75_and_the_next_run_goes_on(
    runs: Path,
) -> None:
    stopped = run_program("preempted_stage", str(runs), "3", "true")
    assert stopped.returncode == 75, stopped.stderr[-3000:]
    assert "told to stop after step 3 of 10, which is saved" in stopped.stderr
    assert not (runs / "two").exists()
    resumed = run_program("preempted_stage", str(runs), "3", "false")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "resuming after step 3" in resumed.stderr
    ours, theirs = (
        load_file(runs / name / "model.safetensors") for name in ("two", "uninterrupted")
    )
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-5, rtol=0)
    losses = [[r["loss"] for r in log_of(runs / x)] for x in ("two", "uninterrupted")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_store_slower_than_a_collective_may_be_ends_nothing(tmp_path: Path) -> None:
    done = run_program("slow_store", str(tmp_path / "checkpoints"), launcher=TORCHRUN)
    assert done.returncode == 0, done.stderr[-3000:]
    trained, resumed = json.loads((tmp_path / "logs.json").read_text())
    assert [record["step"] for record in trained] == [1, 2, 3, 4, 5, 6]
    assert resumed == trained  # tokens/s included: they were read, not trained again


def test_an_altered_checkpoint_is_passed_over_for_an_older_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with checkpoints_of(run_of(), TrainingConfig(checkpoint_uri=str(tmp_path))) as checkpoints:
        assert checkpoints is not None
        write_checkpoint(checkpoints, "step-1", step=1)
        write_checkpoint(checkpoints, "step-2", step=2)
        assert newest(checkpoints) == "step-2"
        (Path(checkpoints.store.uri) / "step-2" / "file").write_text("altered")
        assert newest(checkpoints) == "step-1"
    assert "step-2: file is not as the manifest says; trying an older" in caplog.text


def test_resume_from_without_a_place_to_save_is_refused() -> None:
    with pytest.raises(ValueError, match="checkpoint_resume_from needs checkpoint_uri"):
        TrainingConfig(checkpoint_resume_from="x")
