"""Kubeflow component of record_run: the exit handler of every run."""

from kfp import dsl


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def record_run(
    config: str, status: dsl.PipelineTaskFinalStatus, run_id: str = "", started: str = ""
):
    """Record how the run ended, whatever happened before."""
    from components.record_run.config import RecordRunConfig
    from components.record_run.stage import record_run
    from equilibrate_core.config import load_config
    from equilibrate_core.stage import configure_logging, report_error

    configure_logging()
    try:
        record_run(
            load_config(config, RecordRunConfig),
            run_name=status.pipeline_job_resource_name.split("/")[-1],
            state=status.state,
            error_code=status.error_code or 0,
            error_message=status.error_message or "",
            run_id=run_id,
            started=started,
        )
    except Exception as error:
        raise SystemExit(report_error(error)) from error
