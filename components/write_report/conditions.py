"""Whether the models were asked, judged and benchmarked alike, so that their figures compare.

manifests -> nothing, or one DataError that names the field and both values.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from equilibrate_core.artifacts import Manifest
from equilibrate_core.errors import DataError

PLACEMENT = frozenset(
    f"{section}.{field}"
    for section in ("generator", "judge")
    for field in (
        "batch_size",
        "tensor_parallel_size",
        "gpu_memory_utilization",
        "enforce_eager",
        "cpu_kv_cache_gib",
        "api_key_env",
        "concurrency",
        "timeout_s",
        "max_retries",
        "max_failures_in_a_row",
    )
)
"""Where and how fast a model runs, not what it says."""
FREE: dict[str, frozenset[str]] = {
    "generations": PLACEMENT
    | {
        "model_name",
        "shards_uri",
        "shard_size",
        "max_failed_share",
        "generator.endpoint_url",
        "generator.endpoint_model",
        "generator.endpoint_logprobs",
    },
    "verdicts": PLACEMENT
    | {
        "progress_dir",
        "shard_size",
        "max_unscored_share",
        "max_human_labels",
        "scorer_batch_size",
    },
    "benchmarks": frozenset(
        {
            "attempts",
            "batch_size",
            "tensor_parallel_size",
            "gpu_memory_utilization",
            "cpu_kv_cache_gib",
            "program_memory_mb",
        }
    ),
}
"""Fields of each stage's config that may differ between models; any other must be equal."""
JUDGES = ("judge_model", "reward_model", "cost_model")
"""Inputs of judge_responses that must be the same for all models."""


def check_conditions(manifests: Mapping[str, Manifest]) -> None:
    """Raise DataError when aligned or control was asked, judged or benchmarked unlike the base."""
    for kind in FREE:
        for name in (f"aligned_{kind}", f"control_{kind}"):
            if name in manifests:
                check_alike(kind, name, manifests[name], manifests)


def check_alike(
    kind: str, name: str, manifest: Manifest, manifests: Mapping[str, Manifest]
) -> None:
    """Raise DataError when a field that `manifest` and the base's have differs and may not."""
    fields, others = _conditions(manifest), _conditions(manifests[f"base_{kind}"])
    for field in sorted((fields.keys() & others.keys()) - FREE[kind]):
        if fields[field] != others[field]:
            raise DataError(
                f"{name}: made with {field} {fields[field]!r:.80}, but base_{kind} with "
                f"{others[field]!r:.80}; only models asked, judged and benchmarked alike compare: "
                "make both with one setting"
            )


def _conditions(manifest: Manifest) -> dict[str, Any]:
    judges = {name: manifest.inputs[name] for name in JUDGES if name in manifest.inputs}
    return dict(_flat(manifest.config)) | judges


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
