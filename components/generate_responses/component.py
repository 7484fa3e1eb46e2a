"""Kubeflow component of generate_responses."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def generate_responses(
    config: str,
    code_digest: str,
    model_name: str,
    prompts: Input[Dataset],
    model: Input[Model],
    generations: Output[Dataset],
    metrics: Output[Metrics],
    shard: int = 0,
    num_shards: int = 1,
):
    """Answer the evaluation prompts, or one part of them, with one model, called `model_name`."""
    from components.generate_responses.config import GenerateResponsesConfig
    from components.generate_responses.stage import generate_responses
    from equilibrate_core.launch import launch

    launch(
        generate_responses,
        GenerateResponsesConfig,
        config,
        metrics,
        code_digest=code_digest,
        fields={"model_name": model_name, "shard": shard, "num_shards": num_shards},
        prompts=prompts,
        model=model,
        generations=generations,
    )
