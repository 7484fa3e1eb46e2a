"""Held-out pairs: preference accuracy and distance from the reference, during training and after.

eval pairs + the untrained policy -> figures of the policy as it is now.
"""

# N = sequences, L = padded length, K = response tokens of a batch, D = hidden size
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from components.train_policy.config import TrainPolicyConfig
from components.train_policy.masking import AnswerRow, PolicyRow
from equilibrate_core.artifacts import Counts
from equilibrate_core.batch_plan import evaluation_passes
from equilibrate_core.batches import PaddedBatch, hidden_states
from equilibrate_core.divergence import summed_kl
from equilibrate_core.encoded_pairs import REFUSED, encode_pair
from equilibrate_core.errors import DataError
from equilibrate_core.logps import span_mask
from equilibrate_core.models import autocast
from equilibrate_core.plain_head import has_plain_head
from equilibrate_core.records import Pair
from equilibrate_core.stage import Metrics
from equilibrate_core.training import Trainer

logger = logging.getLogger(__name__)


def held_out_rows(
    config: TrainPolicyConfig, pairs: Sequence[Pair], tokenizer: Any, counts: Counts
) -> list[PolicyRow]:
    """Unmasked rows of held-out pairs that fit, their reference log-probs still to come.

    Raises DataError when none does.
    """
    rows: list[PolicyRow] = []
    for pair in pairs:
        counts.read += 1
        if len(rows) == config.max_eval_pairs:
            counts.drop("held_out_beyond_max_eval_pairs")
            continue
        sides = encode_pair(tokenizer, pair, counts, reason=f"held_out_{REFUSED}")
        if sides is None:
            continue
        if max(len(s.prompt_ids) + len(s.response_ids) for s in sides) > config.max_length:
            counts.drop("held_out_too_long")
            continue
        if sides[0].prompt_ids != sides[1].prompt_ids:
            counts.drop("held_out_answers_merge_differently_with_the_prompt")
            continue
        counts.kept += 1
        answers = [_unscored_answer(side.response_ids) for side in sides]
        rows.append(
            PolicyRow(
                pair.id, sides[0].prompt_ids, *answers, first_difference=0, category="held_out"
            )
        )
    if not rows:
        raise DataError(
            f"train_policy: none of {len(pairs)} eval pairs is usable (dropped: {counts.dropped}); "
            f"raise max_length {config.max_length} or give more eval pairs"
        )
    return rows


class HeldOut:
    """Held-out rows with what the reference says of them, fixed before the first step."""

    def __init__(
        self,
        config: TrainPolicyConfig,
        rows: Sequence[PolicyRow],
        trainer: Trainer[PolicyRow],
        model: Any,
        adapters: Any | None,
    ) -> None:
        """`adapters` is the peft model around `model`; without them all weights are trained."""
        self.config, self.trainer, self.model, self.adapters = config, trainer, model, adapters
        with self._as_reference():
            figures = trainer.evaluate(rows, _length)
        self.rows = [_anchored(r, f, config.beta) for r, f in zip(rows, figures, strict=True)]
        self.kl_rows = self.rows[: config.max_kl_pairs]
        if self.kl_rows and not has_plain_head(model):
            logger.warning("the head is more than a projection: no held_out_kl is computed")
            self.kl_rows = []
        if adapters is None and self.kl_rows:
            self._reference_head = self._copied_head()
            self._reference_hidden = [self._hidden(batch).cpu() for batch in self._batches()]

    def figures(self) -> Metrics:
        """Means over the held-out pairs, and over their response tokens, of the policy now."""
        if not self.rows:
            return {}
        figures = self.trainer.evaluate(self.rows, _length)
        names = ("accuracy", "loss", "chosen_reward", "rejected_reward")
        means = {n: sum(f[n] for f in figures) / len(figures) for n in names}
        gains = sum(f["chosen_reward"] + f["rejected_reward"] for f in figures) / self.config.beta
        tokens = _num_tokens(self.rows)
        metrics = {f"held_out_{name}": value for name, value in means.items()}
        metrics["held_out_log_ratio"] = gains / tokens
        if self.kl_rows:
            metrics["held_out_kl"] = self._kl()
        return metrics

    @torch.no_grad()
    def _kl(self) -> float:
        """Mean over response tokens of KL(policy || reference), exact over the vocabulary."""
        self.trainer.engine.eval()
        total = 0.0
        head = self.model.get_output_embeddings()
        for index, batch in enumerate(self._batches()):
            policy_KD = self._hidden(batch)
            if self.adapters is None:
                reference_KD = self._reference_hidden[index].to(policy_KD.device)
                reference_head = self._reference_head
            else:
                with self._as_reference():
                    reference_KD = self._hidden(batch)
                reference_head = head
            with autocast(self.config.training.precision):
                total += summed_kl(policy_KD, reference_KD, head, reference_head)
        return total / _num_tokens(self.kl_rows)

    @contextmanager
    def _as_reference(self) -> Generator[None]:
        """The base model: before the first step, or with its adapters switched off."""
        if self.adapters is None:
            yield
            return
        with self.adapters.disable_adapter():
            yield

    @torch.no_grad()
    def _hidden(self, batch: Sequence[PolicyRow]) -> Tensor:
        """Hidden states that predict the response tokens of both sides, shape (K, D)."""
        sides = [(r.prompt_ids, a.token_ids) for r in batch for a in (r.chosen, r.rejected)]
        padded = PaddedBatch.of([p + a for p, a in sides], pad_id=0, device=self.model.device)
        length = padded.input_ids_NL.shape[1]
        before_NL = span_mask(
            [len(p) - 1 for p, _ in sides], [len(p) + len(a) - 1 for p, a in sides], length
        )
        with self.trainer.as_local_rank(), autocast(self.config.training.precision):
            hidden_NLD = hidden_states(self.model, padded)
        return hidden_NLD[before_NL.to(hidden_NLD.device)]

    def _batches(self) -> list[Sequence[PolicyRow]]:
        passes = evaluation_passes(self.config.training, [_length(row) for row in self.kl_rows])
        return [[self.kl_rows[place] for place in places] for places in passes]

    def _copied_head(self) -> Any:
        """The reference's own head, which training would change under it."""
        head = self.model.get_output_embeddings()
        with self.trainer.whole_weights(head):
            weight = head.weight.detach().clone()
            bias = None if head.bias is None else head.bias.detach().clone()
        return lambda hidden_KD: torch.nn.functional.linear(hidden_KD, weight, bias)


def _length(row: PolicyRow) -> int:
    return row.length


def _num_tokens(rows: Sequence[PolicyRow]) -> int:
    return sum(len(row.chosen.token_ids) + len(row.rejected.token_ids) for row in rows)


def _unscored_answer(token_ids: list[int]) -> AnswerRow:
    zeros_T = torch.zeros(len(token_ids))
    ones_T = torch.ones(len(token_ids), dtype=torch.bool)
    return AnswerRow(
        token_ids, [0.0] * len(token_ids), [0] * len(token_ids), zeros_T, zeros_T, ones_T
    )


def _anchored(row: PolicyRow, figures: dict[str, float], beta: float) -> PolicyRow:
    """The row with the reference's summed log-probs.

    With reference 0 the objective's rewards are beta times those sums; the whole sum is put on
    the first token, since only sums enter the unmasked loss.
    """

    def anchored(answer: AnswerRow, reward: float) -> AnswerRow:
        rest = [0.0] * (len(answer.token_ids) - 1)
        return replace(answer, reference_logps=[reward / beta, *rest])

    return replace(
        row,
        chosen=anchored(row.chosen, figures["chosen_reward"]),
        rejected=anchored(row.rejected, figures["rejected_reward"]),
    )
