"""Whether artifacts were made from one another, and arms of a study beside the run's own models.

manifests -> nothing, or one DataError that names the artifact and both parents.
"""

from collections.abc import Mapping

from components.write_report.conditions import check_alike
from equilibrate_core.arms import ArmFacts, ArmFolder
from equilibrate_core.artifacts import Manifest, read_manifest
from equilibrate_core.errors import DataError


def check_kinship(manifests: Mapping[str, Manifest]) -> None:
    """Raise DataError when an input names another parent than the one given beside it."""
    parents = [
        ("scored_pairs", "reward_model", "reward_model"),
        ("scored_pairs", "cost_model", "cost_model"),
        ("policy", "scored_pairs", "scored_pairs"),
        ("aligned_generations", "model", "policy"),
        ("aligned_benchmarks", "model", "policy"),
        ("base_generations", "prompts", "labelled_prompts"),
        ("aligned_generations", "prompts", "labelled_prompts"),
        ("base_verdicts", "generations", "base_generations"),
        ("aligned_verdicts", "generations", "aligned_generations"),
        ("aligned_verdicts", "other_generations", "base_generations"),
        ("control_policy", "scored_pairs", "scored_pairs"),
        ("control_generations", "model", "control_policy"),
        ("control_generations", "prompts", "labelled_prompts"),
        ("control_benchmarks", "model", "control_policy"),
        ("control_verdicts", "generations", "control_generations"),
        ("control_verdicts", "other_generations", "base_generations"),
    ]
    for child, argument, parent in parents:
        named = manifests[child].inputs.get(argument) if child in manifests else None
        if named is not None and named != manifests[parent].digest:
            raise DataError(
                f"{child} was made from {argument} {named[:12]}, but {parent} here is "
                f"{manifests[parent].digest[:12]}; give artifacts of one and the same run"
            )
    answered = manifests["base_generations"].inputs.get("model")
    for child, argument in (
        ("base_benchmarks", "model"),
        ("policy", "base_model"),
        ("control_policy", "base_model"),
    ):
        named = manifests[child].inputs.get(argument) if child in manifests else None
        if named is not None and answered is not None and named != answered:
            raise DataError(
                f"base_generations come from model {answered:.12} and {child} from model "
                f"{named:.12}; give artifacts of one and the same base model"
            )


def check_arm(folder: ArmFolder, own: ArmFacts, manifests: Mapping[str, Manifest]) -> None:
    """Raise DataError unless an arm saw the same base model, prompts, judge and scorers."""
    answers = read_manifest(folder.path / "generations").inputs
    verdicts = read_manifest(folder.path / "verdicts").inputs
    own_verdicts = manifests["aligned_verdicts"].inputs
    compared = [
        ("base model", folder.facts.base_digest, own.base_digest),
        ("prompts", answers.get("prompts"), manifests["labelled_prompts"].digest),
        ("base answers", verdicts.get("other_generations"), manifests["base_generations"].digest),
        *(
            (name.replace("_", " "), verdicts.get(name), own_verdicts.get(name))
            for name in ("judge_model", "reward_model", "cost_model")
        ),
    ]
    for what, its, ours in compared:
        if its is not None and ours is not None and its != ours:
            raise DataError(
                f"arm {folder.facts.name}: its {what} is {its[:12]}, but the aligned model's is "
                f"{ours[:12]}; compare arms of one and the same run"
            )
    parts = ["generations", "verdicts", *(["benchmarks"] if folder.benchmarks else [])]
    for part in parts:
        made = read_manifest(folder.path / part)
        check_alike(part, f"arm {folder.facts.name}, {part}", made, manifests)
