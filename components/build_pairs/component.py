"""Kubeflow component of build_pairs."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def build_pairs(
    config: str,
    code_digest: str,
    labelled_prompts: Input[Dataset],
    base_model: Input[Model],
    reward_model: Input[Model],
    cost_model: Input[Model],
    train_pairs: Input[Dataset],
    pairs: Output[Dataset],
    metrics: Output[Metrics],
):
    """Sample answers, rank them by reward and cost, pair the safe best with the unsafe worst."""
    from components.build_pairs.config import BuildPairsConfig
    from components.build_pairs.stage import build_pairs
    from equilibrate_core.launch import launch

    launch(
        build_pairs,
        BuildPairsConfig,
        config,
        metrics,
        code_digest=code_digest,
        labelled_prompts=labelled_prompts,
        base_model=base_model,
        reward_model=reward_model,
        cost_model=cost_model,
        train_pairs=train_pairs,
        pairs=pairs,
    )
