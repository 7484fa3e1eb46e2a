"""Models on a shared volume: weights once, the artifact still sealed."""

import shutil
from pathlib import Path

import pytest

from equilibrate_core.artifacts import verify_artifact
from equilibrate_core.errors import ArtifactError
from equilibrate_core.model_cache import CACHE_VARIABLE, shelve, unshelve


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


def test_other_folders_are_left_alone(tmp_path: Path, volume: Path) -> None:
    assert unshelve(tmp_path / "an output to come") == tmp_path / "an output to come"
