"""Kubeflow component of judge_responses."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def judge_responses(
    config: str,
    code_digest: str,
    prompts: Input[Dataset],
    generations: Input[Dataset],
    judge_model: Input[Model],
    reward_model: Input[Model],
    cost_model: Input[Model],
    verdicts: Output[Dataset],
    metrics: Output[Metrics],
    other_generations: Input[Dataset] = None,
    labelled_pairs: Input[Dataset] = None,
    labelled_answers: Input[Dataset] = None,
    scorer_pairs: Input[Dataset] = None,
):
    """Judge and score one model's answers."""
    from components.judge_responses.config import JudgeResponsesConfig
    from components.judge_responses.stage import judge_responses
    from equilibrate_core.launch import launch

    launch(
        judge_responses,
        JudgeResponsesConfig,
        config,
        metrics,
        code_digest=code_digest,
        prompts=prompts,
        generations=generations,
        judge_model=judge_model,
        reward_model=reward_model,
        cost_model=cost_model,
        verdicts=verdicts,
        other_generations=other_generations,
        labelled_pairs=labelled_pairs,
        labelled_answers=labelled_answers,
        scorer_pairs=scorer_pairs,
    )
