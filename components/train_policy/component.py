"""Kubeflow component of train_policy."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def train_policy(
    config: str,
    code_digest: str,
    scored_pairs: Input[Dataset],
    eval_pairs: Input[Dataset],
    base_model: Input[Model],
    policy: Output[Model],
    metrics: Output[Metrics],
    nodes: dict = {},  # noqa: B006  (kfp has no types with None)
    node_selector: dict = {},  # noqa: B006
    tolerations: list = [],  # noqa: B006
):
    """Train the policy with ADPO on scored pairs; with `nodes` in a TrainJob."""
    from components.train_policy.config import TrainPolicyConfig
    from components.train_policy.stage import train_policy
    from equilibrate_core.launch_training import launch_training

    launch_training(
        train_policy,
        TrainPolicyConfig,
        config,
        metrics,
        code_digest=code_digest,
        output="policy",
        nodes=nodes,
        node_selector=node_selector,
        tolerations=tolerations,
        scored_pairs=scored_pairs,
        eval_pairs=eval_pairs,
        base_model=base_model,
        policy=policy,
    )
