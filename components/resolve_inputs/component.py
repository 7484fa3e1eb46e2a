"""Kubeflow component of resolve_inputs; its task must not be cached."""

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="python:3.11-slim", install_kfp_package=False)
def resolve_inputs(
    config: str,
    code_digest: str,
    run_id: str = "",
    settings: str = "",
    import_data_config: str = "",
    import_model_config: str = "",
    judge_model_config: str = "",
    classify_prompts_config: str = "",
    assemble_dataset_config: str = "",
    reward_model_config: str = "",
    cost_model_config: str = "",
    eval_cost_model_config: str = "",
    score_tokens_config: str = "",
    train_policy_config: str = "",
    generate_responses_config: str = "",
    judge_responses_config: str = "",
    score_benchmarks_config: str = "",
    write_report_config: str = "",
    publish_model_config: str = "",
    build_pairs_config: str = "",
    train_control_config: str = "",
    cpu_image: str = "",
    train_image: str = "",
    vllm_image: str = "",
) -> NamedTuple("Resolved", [("sources", str), ("others", str), ("Output", str)]):
    """Find out what every input URI leads to now, as JSON {uri: digest}, and whether it is new.

    Sources of data and others (models, benchmarks) are told apart, so that new data import no model
    again and benchmark none that has been.
    The news are called Output: kfp's local runner finds no other name in a condition. The sections
    are compared with those of the last completed run; they are not put into one text beforehand,
    since Kubeflow would not escape their quotes.
    """
    from components.resolve_inputs.config import ResolveInputsConfig
    from components.resolve_inputs.news import find_news
    from components.resolve_inputs.stage import resolve_inputs, told_of
    from equilibrate_core.config import load_config
    from equilibrate_core.digests import check_code
    from equilibrate_core.stage import configure_logging, report_error

    configure_logging()
    try:
        check_code("resolve_inputs", code_digest)
        section = load_config(config, ResolveInputsConfig)
        digests = resolve_inputs(section)
        compared = (
            settings,
            import_data_config,
            import_model_config,
            judge_model_config,
            classify_prompts_config,
            assemble_dataset_config,
            reward_model_config,
            cost_model_config,
            eval_cost_model_config,
            score_tokens_config,
            train_policy_config,
            generate_responses_config,
            judge_responses_config,
            score_benchmarks_config,
            write_report_config,
            publish_model_config,
            build_pairs_config,
            train_control_config,
            cpu_image,
            train_image,
            vllm_image,
        )
        news = find_news(section, digests, run_id=run_id, settings="\n".join(compared))
        sources = told_of([source.uri for source in section.sources], digests)
        return (sources, told_of(section.uris, digests), news)
    except Exception as error:
        raise SystemExit(report_error(error)) from error
