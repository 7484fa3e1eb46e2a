"""What every task of a run is given: its own section as JSON, the pipeline's parameters.

A RunConfig -> parameter name -> JSON.
"""

from typing import Any

from components.resolve_inputs.config import ResolveInputsConfig
from equilibrate_core.config import to_json
from pipelines.run_config import RunConfig

GRAPH_FIELDS = frozenset({"num_shards", "shard"})
"""Fields of generate_responses that are compiled into the graph: as parameters they could be edited
without an effect."""


def sections(config: RunConfig, *, cluster: bool = False) -> dict[str, str]:
    """The pipeline's parameters and their defaults: every task's own section as JSON."""
    ask = config.kubeflow.api_url if cluster else ""
    told: dict[str, Any] = {"run_name": config.name}
    if config.plan is not None:
        told["study"] = config.plan.view
    return {
        "resolve_inputs_config": to_json(resolver_config(config)),
        "import_data_config": to_json(config.import_data),
        "import_model_config": to_json(config.import_model),
        "judge_model_config": to_json(config.judge_model or config.import_model),
        "classify_prompts_config": to_json(config.classify_prompts),
        "assemble_dataset_config": to_json(config.assembly),
        "reward_model_config": to_json(config.train_scorer.reward),
        "cost_model_config": to_json(config.train_scorer.cost),
        "eval_cost_model_config": to_json(config.train_scorer.eval_cost),
        "score_tokens_config": to_json(config.score_tokens),
        "train_policy_config": to_json(config.train_policy),
        "generate_responses_config": to_json(config.generate_responses, without=GRAPH_FIELDS),
        "judge_responses_config": to_json(config.judge_responses),
        "score_benchmarks_config": to_json(config.score_benchmarks),
        "write_report_config": to_json(config.write_report.model_copy(update=told)),
        "publish_model_config": to_json(config.publish_model),
        "record_run_config": to_json(
            config.record_run.model_copy(
                update={
                    "pipeline": config.name,
                    "api_url": ask,
                    "train_jobs": cluster and config.max_nodes > 1,
                }
            )
        ),
        **optional_sections(config),
    }


def optional_sections(config: RunConfig) -> dict[str, str]:
    """Parameters that are there only when their section is: others would puzzle in the UI."""
    found: dict[str, str] = {}
    if config.build_pairs is not None:
        found["build_pairs_config"] = to_json(config.build_pairs)
    if config.train_control is not None:
        found["train_control_config"] = to_json(config.train_control)
    if config.plan is None:
        return found
    for arm in config.plan.new_data:
        found[f"arm_{arm.slug}_assemble_config"] = arm.data
    for arm in config.plan.arms:
        found[f"arm_{arm.slug}_train_config"] = to_json(arm.training)
    return found


def compiled_in(config: RunConfig) -> dict[str, str]:
    """Optional sections that are no parameters: the arms of a run that ends without news.

    What resolve_inputs compares are inputs of its component, which cannot take any number of them.
    """
    if not config.resolve_inputs.skip_unchanged:
        return {}
    return {n: text for n, text in optional_sections(config).items() if n.startswith("arm_")}


def resolver_config(config: RunConfig) -> ResolveInputsConfig:
    """What resolve_inputs looks at: every source, model and benchmark folder of the run."""
    models = [m for m in (config.import_model, config.judge_model) if m is not None]
    pinned = [f"{m.uri}@{m.revision}" if m.revision else m.uri for m in models]
    benchmarks = [config.score_benchmarks.data_uri, config.assembly.benchmarks_uri]
    uris = [*config.resolve_inputs.uris, *pinned, *benchmarks]
    publish = config.publish_model
    values = config.resolve_inputs.model_dump() | {
        "sources": [{"uri": source.uri} for source in config.import_data.sources],
        "uris": [uri for uri in uris if uri not in ("", "smollm2", "hub")],
        "pipeline": config.name,
        "records_uri": config.record_run.destination_uri,
        "published_uri": f"{publish.destination_uri.rstrip('/')}/{publish.name}",
    }
    return ResolveInputsConfig.model_validate(values)
