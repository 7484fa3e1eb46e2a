"""Kubeflow component of train_scorer."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def train_scorer(
    config: str,
    code_digest: str,
    pairs: Input[Dataset],
    base_model: Input[Model],
    scorer: Output[Model],
    metrics: Output[Metrics],
    nodes: dict = {},  # noqa: B006  (kfp has no types with None)
    node_selector: dict = {},  # noqa: B006
    tolerations: list = [],  # noqa: B006
):
    """Train a reward or cost model with Safe RLHF's loss; with `nodes` in a TrainJob."""
    from components.train_scorer.config import TrainScorerConfig
    from components.train_scorer.stage import train_scorer
    from equilibrate_core.launch_training import launch_training

    launch_training(
        train_scorer,
        TrainScorerConfig,
        config,
        metrics,
        code_digest=code_digest,
        output="scorer",
        nodes=nodes,
        node_selector=node_selector,
        tolerations=tolerations,
        pairs=pairs,
        base_model=base_model,
        scorer=scorer,
    )
