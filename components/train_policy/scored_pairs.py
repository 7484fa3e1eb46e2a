"""What scored pairs must hold for a policy to be trained on them as configured.

scored_pairs' rows and manifest + config -> nothing, or one error; the baseline of the masks.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from components.train_policy.config import TrainPolicyConfig
from components.train_policy.masking import dataset_mean
from equilibrate_core.artifacts import read_manifest
from equilibrate_core.errors import ArtifactError, ConfigError
from equilibrate_core.records import ScoredPair


def check_rewards(
    config: TrainPolicyConfig, pairs: Sequence[ScoredPair], scored_pairs: Path
) -> None:
    """Raise ConfigError where the masks need rewards that nobody read."""
    if config.loss == "dpo":
        return
    lacking = sum(
        pair.chosen_rewards is None
        and (config.ama.score == "combined" or pair.dimension == "helpful")
        for pair in pairs
    )
    if lacking:
        raise ConfigError(
            f"{scored_pairs}: {lacking} of {len(pairs)} pairs have no token rewards, which "
            f"train_policy.ama.score: {config.ama.score} needs; run score_tokens with rewards: "
            "all_pairs"
        )


def check_reference(config: TrainPolicyConfig, base_model: str, scored_pairs: Path) -> None:
    """Raise where the cached reference log-probs are not those of `base_model` (a digest) as run.

    ArtifactError for another model's, ConfigError for those of another precision.
    """
    manifest = read_manifest(scored_pairs)
    reference = manifest.inputs.get("reference_model")
    if reference not in (None, base_model):
        raise ArtifactError(
            f"{scored_pairs}: its reference log-probs are those of model {reference[:12]}, not of "
            f"base_model {base_model[:12]}; run score_tokens with this model"
        )
    ours, theirs = config.training.precision, manifest.config.get("precision")
    if theirs not in (None, ours):
        raise ConfigError(
            f"{scored_pairs}: its reference log-probs were computed in {theirs}, but "
            f"training.precision is {ours}, so that step 0 would not be at ln 2; set "
            f"training.precision: {theirs}, or run score_tokens with precision: {ours}"
        )


def fixed_baseline(config: TrainPolicyConfig, scored_pairs: Path) -> float | None:
    """The baseline as a number; None for each response's own mean.

    Raises ConfigError where whole responses would be compared with themselves.
    """
    baseline = config.ama.baseline
    segment = read_manifest(scored_pairs).config.get("segment")
    if baseline == "response_mean":
        if segment == "response":
            raise ConfigError(
                "train_policy.ama.baseline: response_mean with score_tokens.segment: response "
                "compares a number with itself; choose another baseline or segment"
            )
        return None
    if baseline == "dataset_mean":
        means = json.loads((scored_pairs / "token_means.json").read_text())
        return dataset_mean(config.ama, means)
    return 0.0 if baseline == "zero" else float(baseline)
