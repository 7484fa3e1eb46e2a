"""Kubeflow component of score_tokens."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def score_tokens(
    config: str,
    code_digest: str,
    pairs: Input[Dataset],
    reward_model: Input[Model],
    cost_model: Input[Model],
    reference_model: Input[Model],
    scored_pairs: Output[Dataset],
    metrics: Output[Metrics],
):
    """Compute reward, cost and reference log-prob of every response token, once."""
    from components.score_tokens.config import ScoreTokensConfig
    from components.score_tokens.stage import score_tokens
    from equilibrate_core.launch import launch

    launch(
        score_tokens,
        ScoreTokensConfig,
        config,
        metrics,
        code_digest=code_digest,
        pairs=pairs,
        reward_model=reward_model,
        cost_model=cost_model,
        reference_model=reference_model,
        scored_pairs=scored_pairs,
    )
