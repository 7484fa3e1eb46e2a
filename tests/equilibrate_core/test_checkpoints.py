"""Interrupted equals uninterrupted; stores that are slow, full or altered do not end a run."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from equilibrate_core import checkpoints as checkpoints_module
from equilibrate_core import s3_retries
from equilibrate_core.checkpoint_store import LocalStore
from equilibrate_core.checkpoints import Checkpoints, TrainingState, checkpoints_of
from equilibrate_core.errors import Preempted, StorageError
from equilibrate_core.lease import Lease
from equilibrate_core.preemption import Preemption
from equilibrate_core.s3_client import connect
from equilibrate_core.s3_uris import is_s3, join_uri, parse_uri
from equilibrate_core.scratch_folders import PREFIX
from equilibrate_core.training import Trainer
from equilibrate_core.training_config import TrainingConfig
from tests.components.scoring_fixtures import as_dataset, harm_pairs
from tests.equilibrate_core.checkpoint_fixtures import newest, run_of, write_checkpoint
from tests.equilibrate_core.full_disk import fill_disk
from tests.equilibrate_core.test_training import Line
from tests.equilibrate_core.test_training import settings as line_settings
from tests.fault_proxy import fault_proxy

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


def assert_nearly_same_scorer(runs: Path, name: str) -> None:
    ours, theirs = (load_file(runs / x / "model.safetensors") for x in (name, "uninterrupted"))
    for key, weight in theirs.items():
        torch.testing.assert_close(ours[key], weight, atol=1e-5, rtol=0)
    losses = [[r["loss"] for r in log_of(runs / x)] for x in (name, "uninterrupted")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


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
    runs: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(runs / "resumed", ignore_errors=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    codes, errors = interrupted(runs, f"{bucket}/checkpoints", "upload:6")
    assert codes == [-9], errors[-3000:]
    assert list(tmp_path.glob(f"{PREFIX}*"))
    codes, errors = interrupted(runs, f"{bucket}/checkpoints", "-")
    assert codes == [0], errors[-3000:]
    assert not list(tmp_path.glob(f"{PREFIX}*"))  # the killed one's neither
    assert "resuming after step 2" in errors
    assert_same_scorer(runs)


def test_sigterm_under_torchrun_saves_and_exits_with_75_and_the_next_run_goes_on(
    runs: Path, fresh_tmpdir: Path
) -> None:
    stopped = run_program("preempted_stage", str(runs), "3", "two", "preempted")
    assert stopped.returncode == 75, stopped.stderr[-3000:]
    assert "told to stop after step 3 of 10, which is saved" in stopped.stderr
    assert not (runs / "two").exists()
    resumed = run_program("preempted_stage", str(runs), "3", "two", "none")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "resuming after step 3" in resumed.stderr
    assert_nearly_same_scorer(runs, "two")
    assert list(fresh_tmpdir.rglob("*")) == []


def test_one_of_two_processes_killed_while_saving_and_started_again_equals_uninterrupted(
    runs: Path, fresh_tmpdir: Path
) -> None:
    killed = run_program("preempted_stage", str(runs), "3", "killed", "killed")
    assert killed.returncode not in (0, 2), killed.stderr[-3000:]
    assert not (runs / "killed").exists()
    resumed = run_program("preempted_stage", str(runs), "3", "killed", "none")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "resuming after step 2" in resumed.stderr  # of the second checkpoint it had one half
    assert_nearly_same_scorer(runs, "killed")
    assert list(fresh_tmpdir.rglob("*")) == []


def test_a_store_slower_than_a_collective_may_be_ends_nothing(tmp_path: Path) -> None:
    done = run_program("slow_store", str(tmp_path / "checkpoints"), launcher=TORCHRUN)
    assert done.returncode == 0, done.stderr[-3000:]
    trained, resumed = json.loads((tmp_path / "logs.json").read_text())
    assert [record["step"] for record in trained] == [1, 2, 3, 4, 5, 6]
    assert resumed == trained  # tokens/s included: they were read, not trained again


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where checkpoints go."""
    if request.param == "disk":
        return str(tmp_path)
    return f"{request.getfixturevalue('bucket')}/checkpoints"


def alter(uri: str) -> None:
    """Change content behind the back of whoever wrote it: an object keeps its stored digest."""
    if not is_s3(uri):
        Path(uri).write_text("altered")
        return
    where = {"Bucket": parse_uri(uri).bucket, "Key": parse_uri(uri).key}
    written = connect().head_object(**where)["Metadata"]
    connect().put_object(**where, Body=b"altered", Metadata=written)


@pytest.mark.parametrize("file", ["file", "manifest.json"])
def test_an_altered_checkpoint_is_passed_over_for_an_older_one(
    place: str, file: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_retries, "FIRST_DELAY_S", 0.01)
    with checkpoints_of(run_of(), TrainingConfig(checkpoint_uri=place)) as checkpoints:
        assert checkpoints is not None
        write_checkpoint(checkpoints, "step-1", step=1)
        write_checkpoint(checkpoints, "step-2", step=2)
        assert newest(checkpoints) == "step-2"
        alter(join_uri(checkpoints.store.uri, f"step-2/{file}"))
        assert newest(checkpoints) == "step-1"
        assert f"step-2/{file}" in caplog.text or "step-2: file is not as the" in caplog.text
        assert "; trying an older checkpoint" in caplog.text
        write_checkpoint(checkpoints, "step-3", step=3)
        assert newest(checkpoints) == "step-3"


def test_an_altered_checkpoint_does_not_take_the_place_of_those_before_it(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_retries, "FIRST_DELAY_S", 0.01)
    settings = TrainingConfig(checkpoint_uri=place, checkpoint_keep=1)
    with checkpoints_of(run_of(), settings) as checkpoints:
        assert checkpoints is not None
        write_checkpoint(checkpoints, "step-4", step=4)
        alter(join_uri(checkpoints.store.uri, "step-4/file"))
        assert newest(checkpoints) is None
        for step in (1, 2):
            write_checkpoint(checkpoints, f"step-{step}", step=step)
            assert newest(checkpoints) == f"step-{step}"
        assert sorted(checkpoints.store.folders()) == ["step-2", "step-4"]


def test_a_store_that_fails_to_answer_is_no_reason_to_take_an_older_checkpoint(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.s3_store import shared_store

    monkeypatch.setattr(s3_retries, "FIRST_DELAY_S", 0.01)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with fault_proxy(shared_store().endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        settings = TrainingConfig(checkpoint_uri=f"{bucket}/checkpoints")
        with checkpoints_of(run_of(), settings) as checkpoints:
            assert checkpoints is not None
            write_checkpoint(checkpoints, "step-1", step=1)
            write_checkpoint(checkpoints, "step-2", step=2)
            proxy.choose = lambda method, path: (
                "503" if method == "GET" and "step-2/file" in path else ""
            )
            with pytest.raises(StorageError, match="step-2/file: the store cannot serve"):
                newest(checkpoints)
            proxy.choose = lambda method, path: ""
            assert newest(checkpoints) == "step-2"


@pytest.mark.parametrize("file", [1, 2], ids=["engine", "random state"])
def test_a_disk_that_fills_up_while_a_checkpoint_is_written_does_not_end_the_run(
    file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, checkpoints, trainer = on_full_disk(tmp_path, has_room=True)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", torch.save)  # to be put back
        fill_disk(at=file)
        assert not checkpoints.save(trainer.engine, TrainingState(step=2))
    assert "checkpoint not saved: " in caplog.text
    assert list(tmp_path.iterdir()) == []
    assert checkpoints.save(trainer.engine, TrainingState(step=3))
    assert [path.name[:13] for path in tmp_path.iterdir()] == ["step-00000003"]


def test_a_disk_without_room_for_a_folder_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, checkpoints, trainer = on_full_disk(tmp_path, has_room=True)

    def draft(name: str) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "draft", draft)
        assert not checkpoints.save(trainer.engine, TrainingState(step=2))
    assert checkpoints.save(trainer.engine, TrainingState(step=3))


def test_a_disk_that_is_full_for_one_of_two_processes_holds_up_neither(tmp_path: Path) -> None:
    done = run_program("full_disk", str(tmp_path / "checkpoints"), launcher=TORCHRUN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "checkpoint not saved: " in done.stderr
    assert (tmp_path / "steps").read_text() == "6"
    (prefix,) = (tmp_path / "checkpoints").iterdir()
    assert [p.name[:13] for p in prefix.iterdir() if p.is_dir()] == ["step-00000006"]


class FullDisk(LocalStore):
    """A folder without room for a checkpoint until some is made."""

    has_room = False

    def publish(self, draft: Path, name: str) -> None:
        if not self.has_room:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().publish(draft, name)


def on_full_disk(folder: Path, *, has_room: bool = False) -> tuple[FullDisk, Checkpoints, Trainer]:
    store = FullDisk(str(folder))
    store.has_room = has_room
    settings = TrainingConfig(checkpoint_uri=str(folder), checkpoint_every_steps=2)
    checkpoints = Checkpoints(store, {}, settings, Lease(store))
    return store, checkpoints, Trainer(Line(), line_settings(), seed=0, checkpoints=checkpoints)


def test_a_failed_save_is_tried_again_after_a_minute_or_as_long_as_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    store, checkpoints, trainer = on_full_disk(tmp_path)
    monkeypatch.setattr(checkpoints_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    checkpoints._saved_at = clock[0]
    assert checkpoints.due(2, 10)
    assert not checkpoints.save(trainer.engine, TrainingState(step=2))
    assert list(tmp_path.iterdir()) == []  # nothing fills the disk up further
    clock[0] += 59
    assert not checkpoints.due(3, 10)
    assert checkpoints.due(10, 10)
    clock[0] += 2
    assert checkpoints.due(3, 10)

    def slowly(engine: object, folder: Path) -> None:
        clock[0] += 300

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "save_engine", slowly)
        assert not checkpoints.save(trainer.engine, TrainingState(step=3))
    clock[0] += 299
    assert not checkpoints.due(4, 10)
    clock[0] += 2
    assert checkpoints.due(4, 10)
    store.has_room = True
    assert checkpoints.save(trainer.engine, TrainingState(step=4))
    assert not checkpoints.due(5, 10)
    assert checkpoints.due(6, 10)


def test_a_run_that_is_told_to_stop_says_whether_it_could_save(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, _, trainer = on_full_disk(tmp_path)
    told = Preemption(requested=True)
    with pytest.raises(Preempted, match="after step 1 of 9, which could not be saved; the same"):
        trainer._save_if_due(TrainingState(step=1), 9, told)
    assert "checkpoint not saved: [Errno 28] No space left on device" in caplog.text
    store.has_room = True
    with pytest.raises(Preempted, match="after step 1 of 9, which is saved; the same command"):
        trainer._save_if_due(TrainingState(step=1), 9, told)


def test_resume_from_without_a_place_to_save_is_refused() -> None:
    with pytest.raises(ValueError, match="checkpoint_resume_from needs checkpoint_uri"):
        TrainingConfig(checkpoint_resume_from="x")
