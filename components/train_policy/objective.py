"""The policy's objective: DPO's loss over the tokens that a row's masks keep.

rows -> per-pair loss, gains and margins; the vocabulary is projected at kept tokens only.
"""

# B = pairs in the batch, N = 2B sequences, L = padded length
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from components.train_policy.masking import AnswerRow, PolicyRow
from equilibrate_core.batches import PaddedBatch
from equilibrate_core.logps import token_logps
from equilibrate_core.losses import preference_loss_per_pair
from equilibrate_core.models import Precision
from equilibrate_core.plain_head import has_plain_head


class PolicyObjective(nn.Module):
    """Per-pair preference loss of a policy against cached reference log-probs."""

    def __init__(self, model: Any, *, beta: float, pad_id: int, precision: Precision) -> None:
        super().__init__()
        has_plain_head(model)  # found out now, since training may shard the model
        self.model = model
        self.beta, self.pad_id = beta, pad_id
        self.precision: Precision = precision

    def forward(self, rows: Sequence[PolicyRow]) -> dict[str, Tensor]:
        """Loss of every pair; gains over the reference in nats; accuracy; all of shape (B,)."""
        answers = [(row, row.chosen) for row in rows] + [(row, row.rejected) for row in rows]
        batch = PaddedBatch.of_pairs(
            [row.prompt_ids + row.chosen.token_ids for row in rows],
            [row.prompt_ids + row.rejected.token_ids for row in rows],
            pad_id=self.pad_id,
            device=self.model.device,
        )
        wanted_NL = _kept_positions(answers, batch.input_ids_NL.shape[1])
        logps_NL = token_logps(self.model, batch, wanted_NL, self.precision)
        reference_N = logps_NL.new_tensor([_kept_reference(answer) for _, answer in answers])
        chosen_B, rejected_B = (logps_NL.sum(dim=1) - reference_N).chunk(2)
        gap_B = chosen_B - rejected_B
        return {
            "loss": preference_loss_per_pair(gap_B, beta=self.beta),
            "chosen_reward": self.beta * chosen_B,
            "rejected_reward": self.beta * rejected_B,
            "accuracy": (gap_B > 0).float(),
        }


def _kept_positions(answers: Sequence[tuple[PolicyRow, AnswerRow]], length: int) -> Tensor:
    wanted_NL = torch.zeros(len(answers), length, dtype=torch.bool)
    for n, (row, answer) in enumerate(answers):
        start = len(row.prompt_ids)
        wanted_NL[n, start : start + len(answer.token_ids)] = answer.mask
    return wanted_NL


def _kept_reference(answer: AnswerRow) -> float:
    logps_T = torch.tensor(answer.reference_logps, dtype=torch.float64)
    return float(logps_T[answer.mask].sum())
