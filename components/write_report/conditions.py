"""Whether the models were asked, judged and benchmarked alike, so that their figures compare.

manifests (and what the harness says of itself) -> nothing, or one DataError that names the field
and both values.
"""

from collections.abc import Collection, Mapping
from typing import Any

from equilibrate_core.artifacts import Manifest, flat_fields
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
WHOLE = ("num_fewshot",)
"""Fields of a config that map names to values, and say as much by a name they lack."""
HARNESS = ("harness_version", "backend")
"""What scores.json says of who scored, that must be the same for all models."""


def check_conditions(manifests: Mapping[str, Manifest]) -> None:
    """Raise DataError when aligned or control was asked, judged or benchmarked unlike the base."""
    for kind in FREE:
        for name in (f"aligned_{kind}", f"control_{kind}"):
            if name in manifests:
                check_alike(kind, name, manifests[name], manifests)


def check_alike(
    kind: str, name: str, manifest: Manifest, manifests: Mapping[str, Manifest]
) -> None:
    """Raise DataError when a field that `manifest` and the base's have differs and may not.

    Of a field that the machine resolved (`auto`) the outcome counts, where both tell it.
    """
    base = manifests[f"base_{kind}"]
    resolved = manifest.resolved.keys() & base.resolved.keys()
    fields, others = (_conditions(of, resolved) for of in (manifest, base))
    for field in sorted((fields.keys() & others.keys()) - FREE[kind]):
        _check_equal(name, f"base_{kind}", field, fields[field], others[field])


def check_harness(name: str, scores: Mapping[str, Any], base_scores: Mapping[str, Any]) -> None:
    """Raise DataError when two models' scores.json name another harness or backend."""
    for field in HARNESS:
        if field in scores and field in base_scores:
            _check_equal(name, "base_benchmarks", field, scores[field], base_scores[field])


def _check_equal(name: str, base: str, field: str, value: Any, other: Any) -> None:
    if value != other:
        raise DataError(
            f"{name}: made with {field} {value!r:.80}, but {base} with {other!r:.80}; only models "
            "asked, judged and benchmarked alike compare: make both with one setting"
        )


def _conditions(manifest: Manifest, resolved: Collection[str]) -> dict[str, Any]:
    judges = {name: manifest.inputs[name] for name in JUDGES if name in manifest.inputs}
    outcomes = {field: manifest.resolved[field] for field in resolved}
    # As a whole, too: of shots that one side leaves to the benchmark there is no field to compare.
    whole = {name: manifest.config[name] for name in WHOLE if name in manifest.config}
    return dict(flat_fields(manifest.config)) | whole | outcomes | judges
