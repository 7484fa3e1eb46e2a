"""Kubeflow component of import_model."""

from kfp import dsl
from kfp.dsl import Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def import_model(
    config: str,
    code_digest: str,
    input_digests: str,
    base_model: Output[Model],
    metrics: Output[Metrics],
):
    """Copy or convert a model, check that it can be used, and seal it with its digest."""
    from components.import_model.config import ImportModelConfig
    from components.import_model.stage import import_model
    from equilibrate_core.launch import launch

    launch(
        import_model,
        ImportModelConfig,
        config,
        metrics,
        code_digest=code_digest,
        input_digests=input_digests,
        base_model=base_model,
    )
