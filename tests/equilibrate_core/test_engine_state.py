"""What is loaded into an engine cannot run code."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from equilibrate_core.engine_state import load_engine
from equilibrate_core.training import Trainer
from tests.equilibrate_core.test_training import Line, settings


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, ("touch " + str(tmp_path / "ran"),))

    (tmp_path / "engine").mkdir()
    torch.save({"module": Evil()}, tmp_path / "engine" / "mp_rank_00_model_states.pt")
    trainer: Trainer = Trainer(Line(), settings(), seed=0)
    with pytest.raises(Exception, match="Weights only load failed"):
        load_engine(trainer.engine, tmp_path)
    assert not (tmp_path / "ran").exists()
