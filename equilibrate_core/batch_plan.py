"""Which rows every optimizer step and every forward pass gets, and at which learning rate.

All of it is a function of config, seed and the rows' lengths: no process has to tell another, and
a resumed run finds the same order.
"""

import math
import random
from collections.abc import Iterator, Sequence

from equilibrate_core.training_config import TrainingConfig


def optimizer_batches(config: TrainingConfig, num_rows: int, seed: int) -> list[list[int]]:
    """Row numbers of every optimizer step, shuffled anew in each epoch."""
    batches: list[list[int]] = []
    size = config.batch_size
    for epoch in range(config.epochs):
        order = list(range(num_rows))
        random.Random(f"{seed}-{epoch}").shuffle(order)
        batches += [order[start : start + size] for start in range(0, num_rows, size)]
    return batches


def micro_batches(
    config: TrainingConfig, lengths: Sequence[int], *, rank: int, world: int
) -> Iterator[tuple[list[int], list[float]]]:
    """Places in the batch, and weights, of each forward pass of one process.

    `lengths` are those of the batch's rows in ascending order, so that rows of like length go
    together. Every process gets equally many passes of equal sizes, since ZeRO's collectives need
    company: where rows run out a process repeats the shortest one with weight 0.
    """
    mine = list(range(len(lengths)))[rank::world]
    weights = [1.0] * len(mine)
    if len(mine) < math.ceil(len(lengths) / world):
        mine.append(0)
        weights.append(0.0)
    # The longest of the rows that the processes take at the same time.
    widths = [lengths[min(i + world, len(lengths)) - 1] for i in range(0, len(lengths), world)]
    for start, end in _cuts(widths, config.micro_batch_size, config.micro_batch_tokens):
        yield mine[start:end], weights[start:end]


def evaluation_passes(config: TrainingConfig, lengths: Sequence[int]) -> list[list[int]]:
    """Places of the rows of each forward pass of an evaluation, cut by the rule of training.

    `lengths` may stand in any order. Every process runs all passes.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    passes = micro_batches(config, [lengths[i] for i in order], rank=0, world=1)
    return [[order[place] for place in places] for places, _ in passes]


def learning_rate(config: TrainingConfig, step: int, num_steps: int) -> float:
    """Rate of the step with this index (from 0): linear warm-up, then the configured decay."""
    warmup = math.ceil(config.warmup_share * num_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(num_steps - warmup, 1)
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return config.learning_rate * factors[config.schedule]


def _cuts(widths: Sequence[int], size: int, tokens: int | None) -> Iterator[tuple[int, int]]:
    """Slices of at most `size` rows that hold at most `tokens` when padded to their longest."""
    start = 0
    for end in range(1, len(widths) + 1):
        grown = end - start + 1
        full = end == len(widths) or grown > size
        if full or (tokens is not None and grown * widths[end] > tokens):
            yield start, end
            start = end
