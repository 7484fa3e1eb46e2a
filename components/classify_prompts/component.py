"""Kubeflow component of classify_prompts."""

from kfp import dsl
from kfp.dsl import ClassificationMetrics, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def classify_prompts(
    config: str,
    code_digest: str,
    prompts: Input[Dataset],
    judge_model: Input[Model],
    labelled_prompts: Output[Dataset],
    metrics: Output[Metrics],
    confusion_matrix: Output[ClassificationMetrics],
):
    """Sort every prompt into EHD, IHD, MHD or NONE with a judge."""
    from components.classify_prompts.config import ClassifyPromptsConfig
    from components.classify_prompts.stage import classify_prompts
    from equilibrate_core.launch import launch, log_confusion_matrix

    launch(
        classify_prompts,
        ClassifyPromptsConfig,
        config,
        metrics,
        code_digest=code_digest,
        prompts=prompts,
        judge_model=judge_model,
        labelled_prompts=labelled_prompts,
    )
    log_confusion_matrix(labelled_prompts, confusion_matrix)
