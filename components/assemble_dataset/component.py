"""Kubeflow component of assemble_dataset."""

from kfp import dsl
from kfp.dsl import HTML, Dataset, Input, Markdown, Metrics, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def assemble_dataset(
    config: str,
    code_digest: str,
    input_digests: str,
    labelled_prompts: Input[Dataset],
    pairs: Input[Dataset],
    scorer_pairs: Output[Dataset],
    train_pairs: Output[Dataset],
    eval_pairs: Output[Dataset],
    data_card: Output[Markdown],
    data_card_html: Output[HTML],
    metrics: Output[Metrics],
):
    """Choose pairs by category quotas and split them by prompt."""
    from components.assemble_dataset.config import AssembleDatasetConfig
    from components.assemble_dataset.stage import assemble_dataset
    from equilibrate_core.launch import launch

    launch(
        assemble_dataset,
        AssembleDatasetConfig,
        config,
        metrics,
        code_digest=code_digest,
        input_digests=input_digests,
        labelled_prompts=labelled_prompts,
        pairs=pairs,
        scorer_pairs=scorer_pairs,
        train_pairs=train_pairs,
        eval_pairs=eval_pairs,
        data_card=data_card,
        data_card_html=data_card_html,
    )
