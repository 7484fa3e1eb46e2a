"""Kubeflow component of write_report."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def write_report(
    config: str,
    code_digest: str,
    labelled_prompts: Input[Dataset],
    train_pairs: Input[Dataset],
    scored_pairs: Input[Dataset],
    reward_model: Input[Model],
    cost_model: Input[Model],
    eval_cost_model: Input[Model],
    policy: Input[Model],
    base_generations: Input[Dataset],
    aligned_generations: Input[Dataset],
    base_verdicts: Input[Dataset],
    aligned_verdicts: Input[Dataset],
    base_benchmarks: Input[Dataset],
    aligned_benchmarks: Input[Dataset],
    report: Output[Artifact],
    page: Output[HTML],
    metrics: Output[Metrics],
    category_confusion: Output[ClassificationMetrics],
    safety_confusion: Output[ClassificationMetrics],
    refusal_confusion: Output[ClassificationMetrics],
    control_policy: Input[Model] = None,
    control_generations: Input[Dataset] = None,
    control_verdicts: Input[Dataset] = None,
    control_benchmarks: Input[Dataset] = None,
    arms: Input[Artifact] = None,
):
    """Compare the aligned model with the base, evaluate the gate and write the report."""
    from components.write_report.config import WriteReportConfig
    from components.write_report.stage import write_report
    from equilibrate_core.launch import launch, log_confusion_matrix

    launch(
        write_report,
        WriteReportConfig,
        config,
        metrics,
        code_digest=code_digest,
        labelled_prompts=labelled_prompts,
        train_pairs=train_pairs,
        scored_pairs=scored_pairs,
        reward_model=reward_model,
        cost_model=cost_model,
        eval_cost_model=eval_cost_model,
        policy=policy,
        base_generations=base_generations,
        aligned_generations=aligned_generations,
        base_verdicts=base_verdicts,
        aligned_verdicts=aligned_verdicts,
        base_benchmarks=base_benchmarks,
        aligned_benchmarks=aligned_benchmarks,
        report=report,
        page=page,
        control_policy=control_policy,
        control_generations=control_generations,
        control_verdicts=control_verdicts,
        control_benchmarks=control_benchmarks,
        arms=arms,
    )
    log_confusion_matrix(report, category_confusion, file="report.json", part="judge")
    log_confusion_matrix(report, safety_confusion, file="report.json", part="answer_judge")
    log_confusion_matrix(report, refusal_confusion, file="report.json", part="refusal_judge")
