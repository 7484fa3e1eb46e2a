"""Kubeflow component of gather_arms."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def gather_arms(
    config: str,
    code_digest: str,
    train_pairs: Input[Dataset],
    scored_pairs: Input[Dataset],
    policy: Input[Model],
    generations: Input[Dataset],
    verdicts: Input[Dataset],
    arms: Output[Artifact],
    metrics: Output[Metrics],
    benchmarks: Input[Dataset] = None,
    earlier_arms: Input[Artifact] = None,
):
    """Put one arm's results beside those of the arms before it."""
    from components.gather_arms.config import GatherArmsConfig
    from components.gather_arms.stage import gather_arms
    from equilibrate_core.launch import launch

    launch(
        gather_arms,
        GatherArmsConfig,
        config,
        metrics,
        code_digest=code_digest,
        train_pairs=train_pairs,
        scored_pairs=scored_pairs,
        policy=policy,
        generations=generations,
        verdicts=verdicts,
        arms=arms,
        benchmarks=benchmarks,
        earlier_arms=earlier_arms,
    )
