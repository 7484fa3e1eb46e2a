"""Score every response token of every pair once: reward, cost and reference log-prob.

train_pairs + scorers + reference model -> scored_pairs, with the pooled token means that the
`dataset_mean` baseline of the masks needs.
"""

# N = sequences in the batch, L = padded length
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.score_tokens.config import ScoreTokensConfig
from components.score_tokens.token_means import token_means
from equilibrate_core.artifacts import Counts, write_json
from equilibrate_core.batches import PaddedBatch, common_length
from equilibrate_core.chat import Encoded
from equilibrate_core.compiling import check_kernels, compile_layers
from equilibrate_core.encoded_pairs import encode_pair
from equilibrate_core.errors import DataError, ModelError, StageError
from equilibrate_core.logps import span_mask, token_logps
from equilibrate_core.models import bound_kernel_cache, device, load_causal_lm, load_tokenizer
from equilibrate_core.plain_head import has_plain_head
from equilibrate_core.progress import Progress
from equilibrate_core.records import Pair, ScoredPair
from equilibrate_core.scorer import check_scorer, load_scorer, normalise, pad_token, token_values
from equilibrate_core.segments import segment_ids
from equilibrate_core.stage import Metrics, stage_main, start_stage
from equilibrate_core.tables import dataset_draft, read_dataset, write_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenTable:
    """Figures of one answer: the value at the last prompt token, then one per response token."""

    initial: float
    values: list[float]


def score_tokens(
    config: ScoreTokensConfig,
    *,
    pairs: Path,
    reward_model: Path,
    cost_model: Path,
    reference_model: Path,
    scored_pairs: Path,
) -> Metrics:
    """Compute reward, cost and reference log-prob of every response token, once.

    The reward model reads the pairs whose masks depend on it: `config.rewards`.
    """
    bound_kernel_cache()
    check_kernels(config.attention, compiles=config.compile, trains=False)
    run = start_stage(
        "score_tokens",
        config,
        pairs=pairs,
        reward_model=reward_model,
        cost_model=cost_model,
        reference_model=reference_model,
    )
    tokenizer = load_tokenizer(reference_model)
    counts = Counts()
    kept, answers = _encode(config, read_dataset(pairs, Pair), tokenizer, counts)
    rewards = _rewards(config, reward_model, tokenizer, kept, answers)
    costs = _scorer_pass(config, cost_model, "cost", tokenizer, answers)
    logps = _reference_pass(config, reference_model, tokenizer, answers)
    sides = [_side(config, *parts) for parts in zip(answers, rewards, costs, logps, strict=True)]
    rows = [
        _scored_pair(pair, answers[2 * i], sides[2 * i], sides[2 * i + 1])
        for i, pair in enumerate(kept)
    ]
    metrics: Metrics = {
        "num_pairs": len(rows),
        "num_too_long": counts.dropped.get("too_long", 0),
        "num_pairs_with_rewards": sum(row.chosen_rewards is not None for row in rows),
        "mean_reference_logp": _mean([p for table in logps for p in table.values]),
    }
    with dataset_draft(run, scored_pairs, ScoredPair) as draft:
        draft.rows = write_rows(draft.path, ScoredPair, rows)
        draft.counts = counts
        write_json(draft.path / "token_means.json", token_means(rows))
        write_json(draft.path / "metrics.json", metrics)
    return metrics


def _encode(
    config: ScoreTokensConfig, pairs: Sequence[Pair], tokenizer: Any, counts: Counts
) -> tuple[list[Pair], list[Encoded]]:
    """Pairs that fit, and their answers: chosen and rejected of the first pair first."""
    kept: list[Pair] = []
    answers: list[Encoded] = []
    for pair in pairs:
        counts.read += 1
        sides = encode_pair(tokenizer, pair, counts)
        if sides is None:
            continue
        if max(len(s.prompt_ids) + len(s.response_ids) for s in sides) > config.max_length:
            counts.drop("too_long")
        elif sides[0].prompt_ids != sides[1].prompt_ids:
            counts.drop("answers_merge_differently_with_the_prompt")
        else:
            counts.kept += 1
            kept.append(pair)
            answers += sides
    if not kept:
        raise DataError(
            f"score_tokens: none of {counts.read} pairs can be scored (dropped: {counts.dropped}); "
            f"raise max_length {config.max_length} or give more pairs"
        )
    return kept, answers


def _rewards(
    config: ScoreTokensConfig,
    folder: Path,
    tokenizer: Any,
    pairs: Sequence[Pair],
    answers: Sequence[Encoded],
) -> list[TokenTable | None]:
    """Rewards of the answers; None for those of pairs whose masks would not look at them."""
    everywhere = config.rewards == "all_pairs"
    is_read = [everywhere or pair.dimension == "helpful" for pair in pairs for _ in range(2)]
    read = list(compress(answers, is_read))
    if not read:
        check_scorer(folder, "reward")
        return [None] * len(answers)
    tables = iter(_scorer_pass(config, folder, "reward", tokenizer, read))
    return [next(tables) if each else None for each in is_read]


def _scorer_pass(
    config: ScoreTokensConfig,
    folder: Path,
    kind: str,
    tokenizer: Any,
    answers: Sequence[Encoded],
) -> list[TokenTable]:
    scorer = load_scorer(folder, attention=config.attention)
    if scorer.constants.kind != kind:
        raise ModelError(f"{folder}: a {scorer.constants.kind} model, but a {kind} model is needed")
    if scorer.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"{folder}: its tokenizer differs from the reference model's; train the {kind} model "
            "on the same base model"
        )
    if scorer.tokenizer.chat_template != tokenizer.chat_template:
        raise ModelError(
            f"{folder}: its chat template differs from the reference model's; train the {kind} "
            "model on the same base model"
        )
    if not scorer.constants.token_wise:
        logger.warning("%s: trained on last tokens only: token values mean little", folder)
    if config.compile:
        compile_layers(scorer.model)

    def values(batch: PaddedBatch, _: Sequence[Encoded]) -> Tensor:
        return normalise(token_values(scorer.model, batch, config.precision), scorer.constants)

    return _pass(config, f"{kind} per token", scorer.tokenizer.pad_token_id, answers, values)


def _reference_pass(
    config: ScoreTokensConfig, folder: Path, tokenizer: Any, answers: Sequence[Encoded]
) -> list[TokenTable]:
    model = load_causal_lm(folder, attention=config.attention)
    has_plain_head(model)  # found out before its layers are compiled for what the question asks
    if config.compile:
        compile_layers(model)
    pad_id = tokenizer.convert_tokens_to_ids(pad_token(tokenizer))

    def values(batch: PaddedBatch, rows: Sequence[Encoded]) -> Tensor:
        starts = [len(row.prompt_ids) for row in rows]
        ends = [len(row.prompt_ids) + len(row.response_ids) for row in rows]
        wanted_NL = span_mask(starts, ends, batch.input_ids_NL.shape[1])
        return token_logps(model, batch, wanted_NL, config.precision)

    return _pass(config, "reference log-probs", pad_id, answers, values)


@torch.no_grad()
def _pass(
    config: ScoreTokensConfig,
    label: str,
    pad_id: int,
    answers: Sequence[Encoded],
    values: Callable[[PaddedBatch, Sequence[Encoded]], Tensor],
) -> list[TokenTable]:
    """Run a model over all pairs, those of like length together, and restore their order."""
    pairs = list(zip(answers[::2], answers[1::2], strict=True))
    order = sorted(range(len(pairs)), key=lambda i: _shared_length(*pairs[i]))
    size = max(1, config.batch_size // 2)
    tables: dict[int, TokenTable] = {}
    with Progress(label, total=len(answers), unit="answer") as progress:
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            rows = [pairs[i][side] for side in (0, 1) for i in indices]
            ids = [_ids(row) for row in rows]
            half = len(indices)
            batch = PaddedBatch.of_pairs(ids[:half], ids[half:], pad_id=pad_id, device=device())
            places = [2 * i + side for side in (0, 1) for i in indices]
            for place, row, values_L in zip(places, rows, values(batch, rows).cpu(), strict=True):
                first = len(row.prompt_ids)
                figures = values_L[first - 1 : first + len(row.response_ids)].tolist()
                tables[place] = TokenTable(figures[0], figures[1:])
            progress.advance(len(rows))
    found = [tables[i] for i in range(len(answers))]
    broken = sum(not isfinite(table.initial + sum(table.values)) for table in found)
    if broken:
        raise StageError(
            f"score_tokens: {label}: {broken} of {len(found)} answers have figures that are not "
            "finite; the model's weights are broken, or precision must be float32"
        )
    return found


def _side(
    config: ScoreTokensConfig,
    answer: Encoded,
    rewards: TokenTable | None,
    costs: TokenTable,
    logps: TokenTable,
) -> dict[str, Any]:
    return {
        "token_ids": answer.response_ids,
        "segment_ids": segment_ids(
            answer.response_text, answer.response_ends, segment=config.segment
        ),
        "rewards": rewards.values if rewards else None,
        "costs": costs.values,
        "reference_logps": logps.values,
        "initial_reward": rewards.initial if rewards else None,
        "initial_cost": costs.initial,
    }


def _scored_pair(
    pair: Pair, answer: Encoded, chosen: dict[str, Any], rejected: dict[str, Any]
) -> ScoredPair:
    return ScoredPair(
        **dict(pair),
        prompt_token_ids=answer.prompt_ids,
        **{f"chosen_{name}": value for name, value in chosen.items()},
        **{f"rejected_{name}": value for name, value in rejected.items()},
    )


def _ids(answer: Encoded) -> list[int]:
    return answer.prompt_ids + answer.response_ids


def _shared_length(first: Encoded, second: Encoded) -> int:
    """Tokens of two answers to a prompt where what they have in common is held once."""
    both = _ids(first), _ids(second)
    return sum(map(len, both)) - common_length(*both)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    raise SystemExit(stage_main(score_tokens, ScoreTokensConfig))
