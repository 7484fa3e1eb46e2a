"""Kubeflow component of import_data."""

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Output


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def import_data(
    config: str,
    code_digest: str,
    input_digests: str,
    prompts: Output[Dataset],
    pairs: Output[Dataset],
    quarantine: Output[Dataset],
    labelled_answers: Output[Dataset],
    metrics: Output[Metrics],
):
    """Read every source into prompts, pairs, labelled answers and quarantined rows.

    `code_digest` and `input_digests` (from resolve_inputs) are there for the cache to see, and are
    compared with the code that runs and with what was read.
    """
    from components.import_data.config import ImportDataConfig
    from components.import_data.stage import import_data
    from equilibrate_core.launch import launch

    launch(
        import_data,
        ImportDataConfig,
        config,
        metrics,
        code_digest=code_digest,
        input_digests=input_digests,
        prompts=prompts,
        pairs=pairs,
        quarantine=quarantine,
        labelled_answers=labelled_answers,
    )
