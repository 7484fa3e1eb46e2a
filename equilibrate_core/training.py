"""The one training loop, under DeepSpeed, for scorers and policy alike.

An objective (a torch module that maps rows to per-row losses) and rows -> trained weights in place
and one log record per optimizer step. Losses are averaged over the true number of rows of each
step, so micro-batches and processes do not change the result.
"""

import math
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn

from equilibrate_core.batch_plan import (
    evaluation_passes,
    learning_rate,
    micro_batches,
    optimizer_batches,
)
from equilibrate_core.checkpoints import Checkpoints, TrainingState
from equilibrate_core.errors import DataError, Preempted, StageError
from equilibrate_core.models import device
from equilibrate_core.preemption import Preemption, watch_for_preemption
from equilibrate_core.progress import Progress
from equilibrate_core.training_config import TrainingConfig
from equilibrate_core.training_engine import start_engine

RowT = TypeVar("RowT", contravariant=True)
StepLog = dict[str, float]
MEND = (
    "lower learning_rate or use float32; if so from the first step on, the weights it starts from "
    "or the data are broken"
)


class Objective(Protocol[RowT]):
    """What is trained: `forward` gives the loss of each row, shape (rows,), and other figures."""

    def forward(self, rows: Sequence[RowT]) -> dict[str, Tensor]:
        """Per-row tensors; the key `loss` is what is minimised."""
        ...


class Trainer(Generic[RowT]):
    """A DeepSpeed engine around an objective; holds processes and optimizer for one run."""

    def __init__(
        self,
        objective: nn.Module,
        config: TrainingConfig,
        *,
        seed: int,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.config = config
        self.seed = seed
        self.checkpoints = checkpoints
        torch.manual_seed(seed)
        self.engine = start_engine(objective, config)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def train(
        self,
        rows: Sequence[RowT],
        length: Callable[[RowT], int],
        log: Callable[[StepLog], None],
        *,
        label: str,
        prepare: Callable[[Sequence[RowT]], Sequence[RowT]] = lambda batch: batch,
        held_out: Callable[[], StepLog] = dict,
    ) -> None:
        """Run all epochs; `length` (tokens of a row) serves to batch rows of like length.

        `prepare` sees each whole optimizer batch before it is cut into micro-batches, and may
        replace or drop rows; a batch it empties is passed over. `held_out` is called every
        `eval_every_steps` and its figures join the step's record. A resumed run logs the records
        of the steps before it first.

        Raises DataError without rows, StageError when a loss or gradient is not finite, and
        Preempted after a SIGTERM, with a checkpoint saved unless its store fails.
        """
        if not rows:
            raise DataError(f"{label}: no rows to train on; loosen the filters before this stage")
        steps = self.batches(len(rows))
        with self.as_local_rank():
            state = self.checkpoints.resume(self.engine) if self.checkpoints else TrainingState()
        for record in state.logs:
            log(record)
        with (
            self.as_local_rank(),
            watch_for_preemption(enabled=self.checkpoints is not None) as preemption,
            Progress(
                label, total=len(steps), unit="step", done=state.step, quiet=self.rank != 0
            ) as progress,
        ):
            while state.step < len(steps):
                batch = prepare([rows[i] for i in steps[state.step]])
                note = ""
                if batch:
                    record = self._timed_step(state.step, len(steps), batch, length)
                    every = self.config.eval_every_steps
                    if every and (state.step + 1) % every == 0:
                        record |= held_out()
                    state.logs.append(record)
                    log(record)
                    note = f"loss {record['loss']:.4f}, {record['tokens_per_s']:.0f} tokens/s"
                state.step += 1
                progress.advance(1, note)
                self._save_if_due(state, len(steps), preemption)
            self._stop_if_told_last(state, preemption)

    def batches(self, num_rows: int) -> list[list[int]]:
        """Row numbers of every optimizer step: a function of seed, epoch and number alone."""
        return optimizer_batches(self.config, num_rows, self.seed)

    @contextmanager
    def whole_weights(self, module: nn.Module | None = None) -> Generator[None]:
        """Within the block every process sees unpartitioned weights (ZeRO-3), fit to be saved."""
        if self.config.zero_stage == 3:
            # An evaluation leaves some on their way, for a backward pass that never comes.
            self.engine.empty_partition_cache()
        parameters = list((module or self.engine.module).parameters())
        with (
            self.as_local_rank(),
            deepspeed.zero.GatheredParameters(parameters, enabled=self.config.zero_stage == 3),
        ):
            yield

    @torch.no_grad()
    def evaluate(
        self, rows: Sequence[RowT], length: Callable[[RowT], int]
    ) -> list[dict[str, float]]:
        """Figures of every row, in order, computed on every process alike.

        Raises StageError when a loss is not finite.
        """
        self.engine.eval()
        found: dict[int, dict[str, float]] = {}
        with self.as_local_rank():
            for places in evaluation_passes(self.config, [length(row) for row in rows]):
                figures = _per_row(self.engine([rows[place] for place in places]))
                found.update(zip(places, figures, strict=True))
        results = [found[place] for place in range(len(rows))]
        broken = sum(not math.isfinite(figures["loss"]) for figures in results)
        if broken:
            raise StageError(f"loss of {broken} of {len(rows)} held-out rows is not finite; {MEND}")
        return results

    @contextmanager
    def as_local_rank(self) -> Generator[None]:
        """ZeRO-3 looks LOCAL_RANK up in every forward; the only process of a run has none."""
        if "LOCAL_RANK" in os.environ:
            yield
            return
        os.environ["LOCAL_RANK"] = "0"
        try:
            yield
        finally:
            del os.environ["LOCAL_RANK"]

    def _timed_step(
        self, step: int, num_steps: int, batch: Sequence[RowT], length: Callable[[RowT], int]
    ) -> StepLog:
        started = time.monotonic()
        batch = sorted(batch, key=length)
        lengths = [length(row) for row in batch]
        record = self._step(step, num_steps, batch, lengths)
        elapsed = max(time.monotonic() - started, 1e-9)
        return record | {"tokens_per_s": sum(lengths) / elapsed}

    def _save_if_due(self, state: TrainingState, num_steps: int, preemption: Preemption) -> None:
        if self.checkpoints is None:
            return
        preempted, due = _any_process(
            preemption.requested, self.checkpoints.due(state.step, num_steps)
        )
        saved = self.checkpoints.save(self.engine, state) if preempted or due else False
        if preempted:
            outcome = (
                "which is saved; the same command goes on from there"
                if saved
                else "which could not be saved; the same command goes on from the checkpoint "
                "before it, if there is one"
            )
            raise Preempted(f"told to stop after step {state.step} of {num_steps}, {outcome}")

    def _stop_if_told_last(self, state: TrainingState, preemption: Preemption) -> None:
        """Stop for a signal that came while the last step's checkpoint was written."""
        if self.checkpoints is None or not _any_process(preemption.requested)[0]:
            return
        raise Preempted(
            f"told to stop after the last step, {state.step}; the same command goes on from the "
            "newest checkpoint"
        )

    def _step(
        self, step: int, num_steps: int, batch: Sequence[RowT], lengths: Sequence[int]
    ) -> StepLog:
        # Dropout is off in the models themselves; training mode is what checkpointing asks for.
        self.engine.train()
        rate = learning_rate(self.config, step, num_steps)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        passes = list(micro_batches(self.config, lengths, rank=self.rank, world=self.world))
        sums: dict[str, float] = {}
        for index, (places, weights) in enumerate(passes):
            self.engine.set_gradient_accumulation_boundary(index == len(passes) - 1)
            figures = self.engine([batch[place] for place in places])
            weights_B = torch.tensor(weights, device=figures["loss"].device)
            # DeepSpeed averages gradients over processes; the loss is a mean over the whole batch.
            loss = (figures["loss"] * weights_B).sum() * self.world / len(batch)
            self.engine.backward(loss)
            for name, values_B in figures.items():
                sums[name] = sums.get(name, 0.0) + float((values_B.detach() * weights_B).sum())
        self._check_finite(sums, step)
        plain_norm = self._plain_gradient_norm()
        self.engine.step()
        totals = self._sum_over_processes(sums)
        record = {name: total / len(batch) for name, total in totals.items()}
        norm = self.engine.get_global_grad_norm() if plain_norm is None else plain_norm
        if norm is not None:
            record["grad_norm"] = float(norm)
            if not math.isfinite(record["grad_norm"]):
                raise StageError(f"gradient is not finite at step {step + 1}; {MEND}")
        return {"step": step + 1, "learning_rate": rate, **record}

    def _check_finite(self, sums: dict[str, float], step: int) -> None:
        finite = torch.tensor(float(math.isfinite(sums["loss"])), device=device())
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        if not finite:
            raise StageError(f"loss is not finite at step {step + 1}; {MEND}")

    def _plain_gradient_norm(self) -> Tensor | None:
        """Norm before clipping under ZeRO 0, where DeepSpeed tells none; None in other stages."""
        if self.config.zero_stage:
            return None
        gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    def _sum_over_processes(self, sums: dict[str, float]) -> dict[str, float]:
        totals = torch.tensor(list(sums.values()), dtype=torch.float64, device=device())
        dist.all_reduce(totals)
        return dict(zip(sums, totals.tolist(), strict=True))


def _any_process(*wishes: bool) -> list[bool]:
    """Which of these wishes any process has; all processes ask together.

    Clocks differ and a signal may reach one process alone: all do what any one wants.
    """
    agreed = torch.tensor(wishes, dtype=torch.float32, device=device())
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return [bool(wish) for wish in agreed]


def _per_row(figures: dict[str, Tensor]) -> list[dict[str, float]]:
    columns = {name: values.tolist() for name, values in figures.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
