"""Models on a shared volume: weights once, the artifact still sealed."""

import errno
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from equilibrate_core.artifacts import verify_artifact
from equilibrate_core.config import StageConfig
from equilibrate_core.digests import code_digest
from equilibrate_core.errors import ArtifactError, StorageError
from equilibrate_core.launch import launch
from equilibrate_core.model_cache import CACHE_VARIABLE, shelve, unshelve
from equilibrate_core.stage import Metrics


@pytest.fixture
def artifact(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "artifact"))


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


def test_a_shelved_model_is_read_whole_from_the_volume(artifact: Path, volume: Path) -> None:
    digest = verify_artifact(artifact).digest
    shelve(artifact)
    assert not list(artifact.glob("*.safetensors"))
    found = unshelve(artifact)
    assert found == volume / f"sha256-{digest}"
    assert verify_artifact(found).digest == digest


def test_two_tasks_with_one_model_share_one_copy(
    artifact: Path, volume: Path, tmp_path: Path
) -> None:
    second = Path(shutil.copytree(artifact, tmp_path / "second"))
    shelve(artifact)
    shelve(second)
    assert len(list(volume.iterdir())) == 1
    assert unshelve(second) == unshelve(artifact)


def test_without_a_volume_nothing_moves(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    shelve(artifact)
    assert unshelve(artifact) == artifact
    verify_artifact(artifact)


def test_an_emptied_volume_is_named_with_the_mend(artifact: Path, volume: Path) -> None:
    shelve(artifact)
    shutil.rmtree(volume)
    with pytest.raises(ArtifactError, match=r"raise kubeflow\.cache_epoch"):
        unshelve(artifact)


def test_an_altered_copy_on_the_volume_is_noticed(artifact: Path, volume: Path) -> None:
    shelve(artifact)
    (weights,) = unshelve(artifact).glob("*.safetensors")
    weights.write_bytes(b"0" * weights.stat().st_size)
    with pytest.raises(ArtifactError, match="content differs from its manifest"):
        verify_artifact(unshelve(artifact))


def test_a_volume_without_room_keeps_no_half_model(
    artifact: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(_: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("{}")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", half)
    with pytest.raises(
        StorageError, match=r"could not be copied there: .*No space left.* make room"
    ):
        shelve(artifact)
    assert list(volume.iterdir()) == []
    assert list(artifact.glob("*.safetensors")), "the weights are still there"


def test_what_killed_copies_left_is_removed_a_day_later(artifact: Path, volume: Path) -> None:
    digest = verify_artifact(artifact).digest
    drafts = [volume / f".sha256-{digest}.{name}" for name in ("old", "fresh")]
    for draft in drafts:
        draft.mkdir()
    os.utime(drafts[0], (0, 0))
    shelve(artifact)
    assert [draft.exists() for draft in drafts] == [False, True]


def test_other_folders_are_left_alone(tmp_path: Path, volume: Path) -> None:
    assert unshelve(tmp_path / "an output to come") == tmp_path / "an output to come"


def harm(folder: Path, how: str) -> None:
    (weights,) = folder.glob("*.safetensors")
    if how == "altered":
        weights.write_bytes(b"0" * weights.stat().st_size)
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif how == "gone":
        weights.unlink()
    else:
        (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize("how", ["altered", "cut", "gone", "manifest"])
def test_a_damaged_shelf_is_replaced_by_the_next_import(
    artifact: Path, volume: Path, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    again = Path(shutil.copytree(artifact, tmp_path / "again"))
    digest = verify_artifact(artifact).digest
    shelve(artifact)
    harm(unshelve(artifact), how)
    with caplog.at_level(logging.WARNING):
        shelve(again)
    assert "it is replaced by what was imported now" in caplog.text
    assert verify_artifact(unshelve(again)).digest == digest
    assert [path.name for path in volume.iterdir()] == [f"sha256-{digest}"]
    assert not list(again.glob("*.safetensors"))


def test_a_sound_shelf_is_left_as_it_is(artifact: Path, volume: Path, tmp_path: Path) -> None:
    second = Path(shutil.copytree(artifact, tmp_path / "second"))
    shelve(artifact)
    before = unshelve(artifact).stat().st_ino
    shelve(second)
    assert unshelve(second).stat().st_ino == before


def measure(config: StageConfig, *, base_model: Path) -> Metrics:
    verify_artifact(base_model)
    return {}


def launched(artifact: Path, tmp_path: Path) -> None:
    metrics: Any = SimpleNamespace(path=str(tmp_path / "metrics"), log_metric=lambda *_: None)
    base_model = SimpleNamespace(path=str(artifact))
    code = code_digest(measure.__name__)
    launch(measure, StageConfig, "{}", metrics, code_digest=code, base_model=base_model)


def test_a_task_that_meets_a_damaged_shelf_sets_it_aside_and_says_what_brings_it_back(
    artifact: Path, volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shelve(artifact)
    launched(artifact, tmp_path)
    harm(unshelve(artifact), "altered")
    with pytest.raises(SystemExit) as ended:
        launched(artifact, tmp_path)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert "content differs from its manifest" in shown and "raise kubeflow.cache_epoch" in shown
    assert not list(volume.iterdir())


def test_a_volume_that_cannot_be_written_is_no_other_error(
    artifact: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shelve(artifact)
    harm(unshelve(artifact), "cut")

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("os.rename", refuse)  # root may write anywhere
    with pytest.raises(SystemExit):
        launched(artifact, tmp_path)
    assert "raise kubeflow.cache_epoch" in capsys.readouterr().err


def test_an_error_that_no_shelf_is_to_blame_for_stays_as_it_is(
    artifact: Path, volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (artifact / "config.json").write_text("{}")
    with pytest.raises(SystemExit):
        launched(artifact, tmp_path)
    assert "config.json: content differs" in capsys.readouterr().err
