"""A checkpoint is whole, and of this very run, or it is none."""

from pathlib import Path
from typing import Any

import pytest

from equilibrate_core import checkpoint_manifest
from equilibrate_core.artifacts import StageRun
from equilibrate_core.checkpoint_manifest import identity_of, version
from equilibrate_core.checkpoints import checkpoints_of
from equilibrate_core.errors import ConfigError
from equilibrate_core.training_config import TrainingConfig
from tests.equilibrate_core.checkpoint_fixtures import newest, run_of, write_checkpoint


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


@pytest.mark.parametrize("library", ["torch", "deepspeed", "transformers", "peft"])
def test_another_version_of_what_computes_is_another_run(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = identity_of(run_of(), 1)
    monkeypatch.setattr(
        checkpoint_manifest, "version", lambda name: "0" if name == library else version(name)
    )
    assert identity_of(run_of(), 1) != ours


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
        write_checkpoint(checkpoints, "step-1")
        assert newest(checkpoints) == "step-1"
        (Path(checkpoints.store.uri) / "step-1" / "manifest.json").unlink()
        assert newest(checkpoints) is None
