"""Kubeflow component of publish_model; its task must not be cached."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def publish_model(
    config: str,
    code_digest: str,
    policy: Input[Model],
    report: Input[Artifact],
    publication: Output[Artifact],
    metrics: Output[Metrics],
):
    """Publish the evaluated policy, or record why it was refused."""
    from components.publish_model.config import PublishModelConfig
    from components.publish_model.stage import publish_model
    from equilibrate_core.launch import launch

    launch(
        publish_model,
        PublishModelConfig,
        config,
        metrics,
        code_digest=code_digest,
        policy=policy,
        report=report,
        publication=publication,
    )
