"""The training loop: true means, micro-batches, processes, schedules, failures."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from equilibrate_core.batch_plan import learning_rate
from equilibrate_core.errors import DataError, StageError
from equilibrate_core.training import StepLog, Trainer
from equilibrate_core.training_config import TrainingConfig

ROWS = [[float(i), float(i % 3)] for i in range(7)]


class Line(nn.Module):
    """Least squares on rows (x, y): every figure can be worked by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.5], [0.1]]))

    def forward(self, rows: Sequence[list[float]]) -> dict[str, Tensor]:
        x, y = torch.tensor(rows).T
        return {"loss": (self.weight[0, 0] * x + self.weight[1, 0] - y).square()}


def settings(**changes: object) -> TrainingConfig:
    fixed: dict = {
        "epochs": 2,
        "batch_size": 3,
        "micro_batch_size": 3,
        "learning_rate": 0.05,
        "precision": "float32",
        "zero_stage": 0,
        "max_grad_norm": 1e6,
    }
    return TrainingConfig(**(fixed | changes))


def trained(config: TrainingConfig) -> tuple[list[float], list[StepLog]]:
    line = Line()
    logs: list[StepLog] = []
    trainer: Trainer = Trainer(line, config, seed=0)
    trainer.train(ROWS, lambda row: int(row[0]), logs.append, label="line")
    return line.weight.flatten().tolist(), logs


def test_micro_batches_change_nothing() -> None:
    whole, whole_logs = trained(settings(micro_batch_size=3))
    for size in (1, 2):
        parts, logs = trained(settings(micro_batch_size=size))
        assert parts == pytest.approx(whole, abs=1e-6)
        assert [r["loss"] for r in logs] == pytest.approx([r["loss"] for r in whole_logs], abs=1e-5)


def test_an_uneven_last_batch_is_averaged_over_its_own_rows() -> None:
    _, logs = trained(settings(epochs=1, learning_rate=1e-12))
    losses = sorted(((0.5 * x + 0.1 - y) ** 2 for x, y in ROWS), reverse=True)
    # 7 rows in batches of 3, 3 and 1: weighted by size the step losses give the mean over rows.
    mean = (3 * logs[0]["loss"] + 3 * logs[1]["loss"] + logs[2]["loss"]) / 7
    assert mean == pytest.approx(sum(losses) / 7, rel=1e-5)


def test_every_epoch_sees_every_row_in_another_order() -> None:
    trainer: Trainer = Trainer(Line(), settings(), seed=0)
    steps = trainer.batches(7)
    first, second = ([i for step in part for i in step] for part in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert steps == trainer.batches(7)


def test_training_is_repeatable() -> None:
    assert trained(settings())[0] == trained(settings())[0]


def test_the_rate_warms_up_and_decays() -> None:
    config = settings(learning_rate=1.0, warmup_share=0.2)
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx((1 + math.cos(math.pi * 0.5)) / 2)
    constant = settings(learning_rate=1.0, schedule="constant", warmup_share=0.0)
    assert {learning_rate(constant, step, 10) for step in range(10)} == {1.0}


def test_no_rows_is_one_clear_error() -> None:
    trainer: Trainer = Trainer(Line(), settings(), seed=0)
    with pytest.raises(DataError, match="no rows to train on"):
        trainer.train([], lambda row: 1, lambda log: None, label="line")


class Steep(Line):
    """Loss 0 with an infinite gradient, as a square root has at 0."""

    def forward(self, rows: Sequence[list[float]]) -> dict[str, Tensor]:
        distance = self.weight[0, 0] - self.weight[0, 0].detach()
        return {"loss": distance.sqrt() + 0.0 * torch.tensor(rows)[:, 0]}


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_says_where_and_how_to_mend_it(value: float) -> None:
    trainer: Trainer = Trainer(Line(), settings(batch_size=1, epochs=1), seed=0)
    rows = [*ROWS[:2], [value, 0.0]]
    broken_at = [rows[i] for (i,) in trainer.batches(3)].index(rows[2]) + 1
    message = f"loss is not finite at step {broken_at}; lower learning_rate or use float32"
    with pytest.raises(StageError, match=message) as caught:
        trainer.train(rows, lambda row: 1, lambda log: None, label="line")
    assert "\n" not in str(caught.value)


# DeepSpeed's ZeRO imports what torch calls deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("zero_stage", [0, 2])
def test_an_infinite_gradient_stops_the_stage_though_the_loss_is_finite(zero_stage: int) -> None:
    config = settings(zero_stage=zero_stage, epochs=1, batch_size=7, max_grad_norm=1.0)
    trainer: Trainer = Trainer(Steep(), config, seed=0)
    with pytest.raises(StageError, match="gradient is not finite at step 1; lower"):
        trainer.train(ROWS, lambda row: 1, lambda log: None, label="line")


def test_the_logged_gradient_norm_is_that_before_clipping() -> None:
    config = settings(epochs=1, batch_size=1, max_grad_norm=0.01)
    logs: list[StepLog] = []
    Trainer(Line(), config, seed=0).train([[4.0, 1.0]], lambda row: 1, logs.append, label="line")
    # (0.5 * 4 + 0.1 - 1)^2 has the gradient 2 * 1.1 * (4, 1)
    assert logs[0]["grad_norm"] == pytest.approx(2.2 * math.sqrt(17), rel=1e-5)


def test_a_held_out_loss_that_is_not_finite_stops_the_stage() -> None:
    trainer: Trainer = Trainer(Line(), settings(), seed=0)
    with pytest.raises(StageError, match="loss of 1 of 2 held-out rows is not finite; lower"):
        trainer.evaluate([ROWS[1], [math.nan, 0.0]], lambda row: 1)


def test_gradients_of_the_only_process_are_added_up_with_nobody() -> None:
    trainer: Trainer = Trainer(Line(), settings(), seed=0)
    assert trainer.world == 1
    assert not trainer.engine.enable_backward_allreduce


class Recorded(Line):
    """Remembers the x of the rows of every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[list[float]] = []

    def forward(self, rows: Sequence[list[float]]) -> dict[str, Tensor]:
        self.passes.append([x for x, _ in rows])
        return super().forward(rows)


def test_an_evaluation_is_bounded_as_training_is_and_keeps_the_order_of_its_rows() -> None:
    line = Recorded()
    trainer: Trainer = Trainer(line, settings(micro_batch_size=3, micro_batch_tokens=6), seed=0)
    figures = trainer.evaluate(ROWS[::-1], lambda row: int(row[0]))
    assert line.passes == [[0, 1, 2], [3], [4], [5], [6]]
    by_hand = [(0.5 * x + 0.1 - y) ** 2 for x, y in ROWS[::-1]]
    assert [row["loss"] for row in figures] == pytest.approx(by_hand, rel=1e-5)


def test_prepare_may_drop_rows_and_whole_batches() -> None:
    trainer: Trainer = Trainer(Line(), settings(epochs=1), seed=0)
    logs: list[StepLog] = []
    trainer.train(
        ROWS,
        lambda row: 1,
        logs.append,
        label="line",
        prepare=lambda batch: [row for row in batch if row[0] == 4.0],
    )
    assert len(logs) == 1
    assert logs[0]["loss"] == pytest.approx((0.5 * 4 + 0.1 - 1) ** 2, rel=1e-5)


def test_a_trainer_leaves_no_trace_in_the_environment_of_children() -> None:
    before = dict(os.environ)
    trained(settings(epochs=1))
    assert dict(os.environ) == before


PROGRAM = """
import json, sys
from tests.equilibrate_core.test_training import settings, trained
weights, logs = trained(settings(zero_stage=int(sys.argv[1])))
import torch.distributed as dist
if dist.get_rank() == 0:
    figures = [[log[name] for log in logs] for name in ("loss", "grad_norm")]
    open(sys.argv[2], "w").write(json.dumps([weights, *figures]))
"""


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_two_processes_equal_one(tmp_path: Path, zero_stage: int) -> None:
    program, result = tmp_path / "program.py", tmp_path / "result.json"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", str(program), str(zero_stage), str(result)]
    root = Path(__file__).parents[2]
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stderr[:4000]} [...] {done.stderr[-2000:]}"
    weights, losses, norms = json.loads(result.read_text())
    alone, logs = trained(settings())
    assert weights == pytest.approx(alone, abs=1e-5)
    assert losses == pytest.approx([r["loss"] for r in logs], abs=1e-4)
    # AdamW forgives a gradient of the wrong scale, clipping does not.
    assert norms == pytest.approx([r["grad_norm"] for r in logs], rel=1e-3)
    moved = max(abs(a - b) for a, b in zip(alone, [0.5, 0.1], strict=True))
    assert moved > 100 * 1e-5


LAST_THREADS = """
import atexit
from pathlib import Path

def show():
    print("threads", *(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")))

atexit.register(show)  # what is registered later runs earlier
from tests.equilibrate_core.test_training import settings, trained
trained(settings())
show()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="names of threads are Linux's")
def test_no_thread_of_gloo_outlives_the_interpreter() -> None:
    # One that lets go of a tensor, or loses its peer, while Python ends aborts the process.
    done = subprocess.run(
        [sys.executable, "-c", LAST_THREADS],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    during, at_the_end = (line for line in done.stdout.splitlines() if line.startswith("threads"))
    assert "gloo" in during
    assert "gloo" not in at_the_end
