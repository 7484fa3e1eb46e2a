"""The arms of a study as one artifact: a folder for each, with its answers, verdicts and scores.

gather_arms writes it, write_report reads it.

    00/arm.json  generations/  verdicts/  benchmarks/ (where the arm was benchmarked)
    01/…
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from equilibrate_core.artifacts import Manifest, read_manifest
from equilibrate_core.errors import ArtifactError
from equilibrate_core.tables import dataset_files

FACTS = "arm.json"
UNLABELLED = "unlabelled"


class ArmFacts(BaseModel):
    """What an arm is, read off the artifacts it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    selection: str | None
    """How its safety pairs were chosen."""
    loss: str | None
    """What it was trained with."""
    seed: int
    """Of its training."""
    pairs: dict[str, int]
    """Pairs it was trained on, by category; those too long for the model are not among them."""
    policy_digest: str
    base_digest: str | None
    """Content digest of the model its training started from."""
    training: dict[str, float]
    """The policy's own training metrics."""


@dataclass(frozen=True)
class ArmFolder:
    """One arm's part of the artifact."""

    path: Path
    facts: ArmFacts

    @property
    def benchmarks(self) -> Path | None:
        """Its benchmark scores, None where it was not benchmarked."""
        path = self.path / "benchmarks"
        return path if path.is_dir() else None


def read_arms(artifact: Path) -> list[ArmFolder]:
    """Arms of an artifact in the order they were gathered. Raises ArtifactError on a broken one.

    The artifact itself is verified where the stage that reads it starts.
    """
    found: list[ArmFolder] = []
    for path in sorted(folder for folder in artifact.iterdir() if folder.is_dir()):
        try:
            facts = ArmFacts.model_validate_json((path / FACTS).read_bytes())
        except (OSError, ValidationError) as error:
            raise ArtifactError(f"{path / FACTS}: unreadable: {error}") from error
        found.append(ArmFolder(path, facts))
    return found


def arm_facts(
    name: str,
    *,
    train_pairs: Manifest,
    scored_pairs: Path,
    policy: Manifest,
    training: dict[str, float],
) -> ArmFacts:
    """Facts of an arm from what it was made of."""
    return ArmFacts(
        name=name,
        selection=train_pairs.config.get("selection"),
        loss=policy.config.get("loss"),
        seed=policy.seed,
        pairs=count_categories(scored_pairs),
        policy_digest=policy.digest,
        base_digest=policy.inputs.get("base_model"),
        training=training,
    )


def count_categories(dataset: Path) -> dict[str, int]:
    """Rows of a dataset of pairs by category, of which only that column is read."""
    counts: Counter[str] = Counter()
    for path in dataset_files(dataset):
        column = pq.read_table(path, columns=["category"])["category"]
        counts.update(category or UNLABELLED for category in column.to_pylist())
    return dict(sorted(counts.items()))


def check_made_from(child: Path, argument: str, parent: Path) -> None:
    """Raise ArtifactError when `child` names another `argument` than the `parent` given beside it.

    An artifact that names none (made by hand) passes.
    """
    named, given = read_manifest(child).inputs.get(argument), read_manifest(parent).digest
    if named is not None and named != given:
        raise ArtifactError(
            f"{child} was made from {argument} {named[:12]}, but {parent} is {given[:12]}; "
            "give artifacts of one and the same arm"
        )
