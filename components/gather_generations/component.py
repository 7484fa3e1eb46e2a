"""Kubeflow component of gather_generations."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def gather_generations(
    config: str,
    code_digest: str,
    part_0: Input[Dataset],
    part_1: Input[Dataset],
    generations: Output[Dataset],
    metrics: Output[Metrics],
    part_2: Input[Dataset] = None,
    part_3: Input[Dataset] = None,
    part_4: Input[Dataset] = None,
    part_5: Input[Dataset] = None,
    part_6: Input[Dataset] = None,
    part_7: Input[Dataset] = None,
):
    """Put the parts of one model's answers together."""
    from components.gather_generations.config import GatherGenerationsConfig
    from components.gather_generations.stage import gather_generations
    from equilibrate_core.launch import launch

    launch(
        gather_generations,
        GatherGenerationsConfig,
        config,
        metrics,
        code_digest=code_digest,
        generations=generations,
        part_0=part_0,
        part_1=part_1,
        part_2=part_2,
        part_3=part_3,
        part_4=part_4,
        part_5=part_5,
        part_6=part_6,
        part_7=part_7,
    )
