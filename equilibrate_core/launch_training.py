"""From a Kubeflow task to a training: in this pod, or in a TrainJob over several nodes.

KFP artifacts and a placement -> the scalars of the training. In a TrainJob the pods read and write
the artifacts' URIs: they do not see this pod's disk.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equilibrate_core import digests
from equilibrate_core.artifacts import read_manifest
from equilibrate_core.config import load_config, parse_config
from equilibrate_core.errors import ConfigError
from equilibrate_core.launch import KfpMetrics, launch, log_scalars
from equilibrate_core.node_placement import NodePlacement
from equilibrate_core.s3_uris import is_s3
from equilibrate_core.stage import Stage, configure_logging, report_error
from equilibrate_core.train_job import Training
from equilibrate_core.training_config import TrainingStageConfig


def launch_training(
    stage: Stage,
    config_type: type[TrainingStageConfig],
    config: str,
    metrics: KfpMetrics,
    *,
    code_digest: str,
    output: str,
    nodes: Mapping[str, Any],
    node_selector: Mapping[str, str],
    tolerations: Sequence[Any],
    **artifacts: Any,
) -> None:
    """Train inside a Kubeflow task, or in a TrainJob when the pipeline was compiled for one.

    `code_digest` names the code that the pipeline was made with; `nodes` are the other fields of a
    NodePlacement, none for one node; `output` names the artifact that is written; artifacts are
    KFP's (anything with `path` and `uri`).
    """
    configure_logging()
    try:
        digests.check_code(stage.__name__, code_digest)
        section = load_config(config, config_type)
        if nodes:
            from equilibrate_core.train_job_run import run_train_job  # a second of imports

            fields = {**nodes, "node_selector": node_selector, "tolerations": tolerations}
            placement = parse_config(fields, NodePlacement, f"{stage.__name__}: its nodes")
            training = _training(stage, section, output, artifacts)
            log_scalars(metrics, run_train_job(training, placement))
            return
        if section.num_nodes > 1:
            raise ConfigError(
                f"num_nodes: {section.num_nodes} trains in a TrainJob on a cluster, in a pipeline "
                "compiled with that number in its run file; compile it anew, or set num_nodes: 1"
            )
    except Exception as error:
        raise SystemExit(report_error(error)) from error
    launch(stage, config_type, config, metrics, code_digest=code_digest, **artifacts)


def _training(
    stage: Stage, config: TrainingStageConfig, output: str, artifacts: Mapping[str, Any]
) -> Training:
    for name, artifact in artifacts.items():
        if not is_s3(artifact.uri):
            raise ConfigError(
                f"{name}: {artifact.uri}: pods of a TrainJob read and write s3:// only; set "
                "defaultPipelineRoot to s3://… in the config map kfp-launcher"
            )
    inputs = {name: artifact for name, artifact in artifacts.items() if name != output}
    return Training(
        stage=stage.__name__,
        module=stage.__module__,
        config=config,
        code_digest=digests.code_digest(stage.__name__),
        inputs={name: str(artifact.uri) for name, artifact in inputs.items()},
        input_digests={n: read_manifest(Path(a.path)).digest for n, a in inputs.items()},
        output=(output, str(artifacts[output].uri)),
    )
