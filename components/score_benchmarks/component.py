"""Kubeflow component of score_benchmarks."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def score_benchmarks(
    config: str,
    code_digest: str,
    input_digests: str,
    model: Input[Model],
    benchmark_scores: Output[Dataset],
    metrics: Output[Metrics],
):
    """Score a model on the configured benchmarks; one that fails does not stop the others."""
    from components.score_benchmarks.config import ScoreBenchmarksConfig
    from components.score_benchmarks.stage import score_benchmarks
    from equilibrate_core.launch import launch

    launch(
        score_benchmarks,
        ScoreBenchmarksConfig,
        config,
        metrics,
        code_digest=code_digest,
        input_digests=input_digests,
        model=model,
        benchmark_scores=benchmark_scores,
    )
