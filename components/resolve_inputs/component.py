"""Kubeflow component of resolve_inputs; its task must not be cached."""

from kfp import dsl


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def resolve_inputs(config: str, code_digest: str) -> str:
    """Find out what every input URI leads to now, as JSON {uri: digest}."""
    from components.resolve_inputs.config import ResolveInputsConfig
    from components.resolve_inputs.stage import resolve_inputs
    from equilibrate_core.config import load_config
    from equilibrate_core.stage import report_error

    try:
        return resolve_inputs(load_config(config, ResolveInputsConfig))
    except Exception as error:
        raise SystemExit(report_error(error)) from error
