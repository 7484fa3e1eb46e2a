"""Scored pairs without scorers: a model's own reference log-probs, and costs that AMA can read."""

from typing import Any

import torch

from equilibrate_core.chat import encode_answer
from equilibrate_core.records import Pair, ScoredPair


def answer_logps(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probs of the whole vocabulary at the answer's positions, shape (T, V)."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer])).logits[0].double()
    return logits.log_softmax(-1)[len(prompt) - 1 : -1]


def scored_pair(pair: Pair, model: Any, tokenizer: Any, *, kept: int = 10_000) -> ScoredPair:
    """The pair with scores by which baseline zero keeps the first `kept` tokens of each answer."""
    columns: dict[str, Any] = {}
    for side, sign in (("chosen", 1.0), ("rejected", -1.0)):
        encoded = encode_answer(tokenizer, pair.messages, getattr(pair, side))
        ids = encoded.response_ids
        table = answer_logps(model, encoded.prompt_ids, ids)
        scores = [sign if t < kept else -sign for t in range(len(ids))]
        columns |= {
            "prompt_token_ids": encoded.prompt_ids,
            f"{side}_token_ids": ids,
            f"{side}_segment_ids": list(range(len(ids))),
            f"{side}_rewards": scores,
            f"{side}_costs": [-score for score in scores],
            f"{side}_reference_logps": [float(table[t, i]) for t, i in enumerate(ids)],
            f"{side}_initial_reward": 0.0,
            f"{side}_initial_cost": 0.0,
        }
    return ScoredPair(**dict(pair), **columns)
