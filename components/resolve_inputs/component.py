"""Kubeflow component of resolve_inputs; its task must not be cached."""

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def resolve_inputs(
    config: str, code_digest: str, run_id: str = "", settings: str = ""
) -> NamedTuple("Resolved", [("digests", str), ("Output", str)]):
    """Find out what every input URI leads to now, as JSON {uri: digest}, and whether it is new.

    The news are called Output: kfp's local runner finds no other name in a condition.
    """
    from components.resolve_inputs.config import ResolveInputsConfig
    from components.resolve_inputs.news import find_news
    from components.resolve_inputs.stage import resolve_inputs
    from equilibrate_core.config import load_config
    from equilibrate_core.stage import configure_logging, report_error

    configure_logging()
    try:
        section = load_config(config, ResolveInputsConfig)
        digests = resolve_inputs(section)
        return (digests, find_news(section, digests, run_id=run_id, settings=settings))
    except Exception as error:
        raise SystemExit(report_error(error)) from error
