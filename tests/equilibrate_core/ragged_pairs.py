"""Pairs of token sequences of several lengths, in shared rows and in rows of their own."""

import torch
from torch import Tensor

from equilibrate_core.batches import PaddedBatch
from equilibrate_core.logps import span_mask

CPU = torch.device("cpu")
Parts = list[tuple[int, int, int]]
"""Tokens of a pair's common opening, and of what follows it in the first and second answer."""
RAGGED: dict[str, Parts] = {
    "short": [(4, 9, 3), (6, 1, 12), (2, 5, 5)],
    "over blocks": [(40, 200, 90), (150, 10, 120), (3, 130, 1)],
    "one pair": [(130, 60, 140)],
}


def batches(parts: Parts, device: torch.device = CPU) -> tuple[PaddedBatch, PaddedBatch, Tensor]:
    """The pairs in shared rows, in rows of their own, and where their answers' tokens are."""
    draw = torch.Generator().manual_seed(0)

    def drawn(number: int) -> list[int]:
        return torch.randint(8, 300, (number,), generator=draw).tolist()

    openings = [drawn(common) for common, _, _ in parts]
    firsts = [[*o, 5, *drawn(n - 1)] for o, (_, n, _) in zip(openings, parts, strict=True)]
    seconds = [[*o, 6, *drawn(n - 1)] for o, (_, _, n) in zip(openings, parts, strict=True)]
    apart = PaddedBatch.of(firsts + seconds, pad_id=0, device=device)
    starts = [common for common, _, _ in parts] * 2
    wanted = span_mask(starts, [len(x) for x in firsts + seconds], apart.input_ids_NL.shape[1])
    return PaddedBatch.of_pairs(firsts, seconds, pad_id=0, device=device), apart, wanted
