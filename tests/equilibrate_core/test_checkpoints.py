"""Interrupted equals uninterrupted; checkpoints are whole or absent, and of this very run."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from equilibrate_core.artifacts import StageRun
from equilibrate_core.checkpoint_store import open_store
from equilibrate_core.checkpoints import Checkpoints, checkpoints_of
from equilibrate_core.errors import ConfigError
from equilibrate_core.training_config import TrainingConfig
from tests.components.scoring_fixtures import as_dataset, harm_pairs

pytest_plugins = ["tests.s3_store"]
ROOT = Path(__file__).parents[2]


def run_program(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"tests.equilibrate_core.{name}", *arguments]
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


def run_of(**changes: Any) -> StageRun:
    fixed: dict[str, Any] = {
        "stage": "train_scorer",
        "config": {"kind": "cost", "training": {"epochs": 1, "checkpoint_keep": 2}},
        "seed": 0,
        "code_version": "code",
        "inputs": {"pairs": "digest"},
    }
    return StageRun(**(fixed | changes))


def prefix_of(tmp_path: Path, run: StageRun) -> str:
    with checkpoints_of(run, TrainingConfig(checkpoint_uri=str(tmp_path))) as checkpoints:
        assert checkpoints is not None
        return checkpoints.store.uri


def test_config_inputs_and_code_choose_the_prefix_and_checkpoint_settings_do_not(
    tmp_path: Path,
) -> None:
    first = prefix_of(tmp_path, run_of())
    others = [
        run_of(config={"kind": "cost", "training": {"epochs": 2, "checkpoint_keep": 2}}),
        run_of(inputs={"pairs": "other"}),
        run_of(code_version="other"),
        run_of(stage="train_policy"),
    ]
    assert len({first, *(prefix_of(tmp_path, run) for run in others)}) == 5
    kept = run_of(config={"kind": "cost", "training": {"epochs": 1, "checkpoint_keep": 9}})
    assert prefix_of(tmp_path, kept) == first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"pairs": "other"}}, "inputs.pairs was 'digest' there and is 'other' here"),
        ({"code_version": "new"}, "code was 'code' there and is 'new' here"),
        (
            {"config": {"kind": "cost", "training": {"epochs": 3}}},
            "config.training.epochs was 1 there and is 3 here",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with checkpoints_of(run_of(), TrainingConfig(checkpoint_uri=str(tmp_path))) as first:
        assert first is not None
        write_checkpoint(first, "step-1")
    settings = TrainingConfig(
        checkpoint_uri=str(tmp_path), checkpoint_resume_from=f"{first.store.uri}/step-1"
    )
    with (
        checkpoints_of(run_of(**changes), settings) as other,
        pytest.raises(ConfigError, match=message) as caught,
    ):
        assert other is not None
        newest(other)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    settings = TrainingConfig(checkpoint_uri=str(tmp_path))
    with checkpoints_of(run_of(), settings) as checkpoints:
        assert checkpoints is not None
        assert newest(checkpoints) is None
        folder = write_checkpoint(checkpoints, "step-1")
        assert newest(checkpoints) == str(folder)
        (folder / "manifest.json").unlink()
        assert newest(checkpoints) is None


def test_an_altered_checkpoint_is_passed_over_for_an_older_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with checkpoints_of(run_of(), TrainingConfig(checkpoint_uri=str(tmp_path))) as checkpoints:
        assert checkpoints is not None
        older = write_checkpoint(checkpoints, "step-1", step=1)
        newer = write_checkpoint(checkpoints, "step-2", step=2)
        assert newest(checkpoints) == str(newer)
        (newer / "file").write_text("altered")
        assert newest(checkpoints) == str(older)
    assert "step-2: file is not as the manifest says; trying an older" in caplog.text


def write_checkpoint(checkpoints: Checkpoints, name: str, *, step: int = 1) -> Path:
    draft = checkpoints.store.draft(name)
    (draft / "file").write_text(name)
    checkpoints._publish(draft, name, step, {})
    return Path(checkpoints.store.uri) / name


def newest(checkpoints: Checkpoints) -> str | None:
    with ExitStack() as stack:
        found = checkpoints._newest(stack)
        return None if found is None else found[-1]


def test_resume_from_without_a_place_to_save_is_refused() -> None:
    with pytest.raises(ValueError, match="checkpoint_resume_from needs checkpoint_uri"):
        TrainingConfig(checkpoint_resume_from="x")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    from equilibrate_core.checkpoints import _load_engine

    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, ("touch " + str(tmp_path / "ran"),))

    (tmp_path / "engine").mkdir()
    torch.save({"module": Evil()}, tmp_path / "engine" / "mp_rank_00_model_states.pt")
    from equilibrate_core.training import Trainer
    from tests.equilibrate_core.test_training import Line, settings

    trainer: Trainer = Trainer(Line(), settings(), seed=0)
    with pytest.raises(Exception, match="Weights only load failed"):
        _load_engine(trainer.engine, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_s3_folders_are_whole_or_absent_and_go_manifest_first(bucket: str, tmp_path: Path) -> None:
    store = open_store(f"{bucket}/some/prefix")
    store.put_if_absent("lease.json", b"{}")
    draft = store.draft("step-1")
    (draft / "engine").mkdir()
    (draft / "engine" / "weights").write_bytes(b"1" * 1000)
    (draft / "manifest.json").write_text("{}")
    store.publish(draft, "step-1")
    assert not draft.exists()
    assert store.folders() == ["step-1"]
    with store.fetched("step-1") as folder:
        assert (folder / "engine" / "weights").read_bytes() == b"1" * 1000
    store.remove("step-1")
    assert store.folders() == []
