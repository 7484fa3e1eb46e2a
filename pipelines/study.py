"""From the section `study` to a plan: every policy with its own configs, and the curves' points.

A study and the run's own sections -> the arms to train beside the run's own policy.
"""

from dataclasses import dataclass
from typing import Any

from components.assemble_dataset.config import AssembleDatasetConfig
from components.train_policy.config import TrainPolicyConfig
from components.write_report.config import CurveConfig, CurvePointConfig, StudyView
from equilibrate_core.config import to_json
from pipelines.study_config import RESERVED, Arm, StudyConfig, slug


@dataclass(frozen=True)
class PlannedArm:
    """One policy to train."""

    name: str
    dataset: AssembleDatasetConfig
    training: TrainPolicyConfig

    @property
    def slug(self) -> str:
        """The name as part of a parameter's name."""
        return slug(self.name)

    @property
    def data(self) -> str:
        """Arms in which this is equal learn from the same pairs."""
        return to_json(self.dataset)


@dataclass(frozen=True)
class Plan:
    """What a study trains beside the run's own policy, and how the report tells it."""

    own: PlannedArm
    """The run's own policy."""
    arms: tuple[PlannedArm, ...]
    """The others, in the order of the report."""
    view: StudyView

    @property
    def new_data(self) -> tuple[PlannedArm, ...]:
        """The first arm of every dataset but the run's own."""
        found: dict[str, PlannedArm] = {}
        for arm in self.arms:
            if arm.data != self.own.data:
                found.setdefault(arm.data, arm)
        return tuple(found.values())


def plan_study(
    study: StudyConfig, dataset: AssembleDatasetConfig, training: TrainPolicyConfig
) -> Plan:
    """Expand a study against the run's own sections. Raises ValueError with one clear line."""
    own = PlannedArm(study.reference, dataset, training)
    _check_names(study)
    named = [_planned(arm, own) for arm in study.arms]
    for arm in named:
        if (arm.name == own.name) != (_key(arm) == _key(own)):
            raise ValueError(_not_the_reference(arm, own))
    arms = [arm for arm in named if arm.name != own.name]
    _check_distinct(arms)
    known = {_key(arm): arm.name for arm in (own, *arms)}
    curves: list[CurveConfig] = []
    for scaling in study.scaling:
        _check_scaling(dataset)
        points: list[CurvePointConfig] = []
        for size in scaling.sizes:
            quotas = dataset.quotas.model_copy(update={scaling.category: size})
            arm = _planned(Arm(name=f"{scaling.category}={size}", quotas=quotas), own)
            if _key(arm) not in known:
                known[_key(arm)] = arm.name
                arms.append(arm)
            points.append(CurvePointConfig(size=size, arm=known[_key(arm)]))
        curves.append(CurveConfig(category=scaling.category, points=tuple(points)))
    if not arms:
        raise ValueError("study: nothing to compare; give arms or scaling beside the reference")
    return Plan(own, tuple(arms), StudyView(reference=own.name, curves=tuple(curves)))


def _planned(arm: Arm, own: PlannedArm) -> PlannedArm:
    data = _given(arm, "selection", "quotas", "general_count")
    if arm.general_count is not None:
        data["general_per_category"] = None
    return PlannedArm(
        arm.name,
        own.dataset.model_copy(update=data),
        own.training.model_copy(update=_given(arm, "loss", "seed")),
    )


def _given(arm: Arm, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(arm, name)) is not None}


def _key(arm: PlannedArm) -> tuple[str, str]:
    return arm.data, to_json(arm.training)


def _check_names(study: StudyConfig) -> None:
    seen: dict[str, str] = {}
    names = [arm.name for arm in study.arms]
    names += [study.reference] if study.reference not in names else []
    names += [f"{curve.category}={size}" for curve in study.scaling for size in curve.sizes]
    for name in names:
        if slug(name) in RESERVED:
            raise ValueError(f"study: an arm cannot be called {name!r}; the report uses that name")
        if slug(name) in seen:
            raise ValueError(
                f"study: two arms are called {seen[slug(name)]!r} and {name!r}; "
                "names must differ in letters or digits, and a category has one curve"
            )
        seen[slug(name)] = name


def _check_distinct(arms: list[PlannedArm]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for arm in arms:
        if _key(arm) in seen:
            raise ValueError(
                f"study: arms {seen[_key(arm)]!r} and {arm.name!r} are the same training; "
                "remove one or change its selection, quotas, loss or seed"
            )
        seen[_key(arm)] = arm.name


def _not_the_reference(arm: PlannedArm, own: PlannedArm) -> str:
    if arm.name == own.name:
        return (
            f"study: the reference {own.name!r} must be the run's own policy; let its selection, "
            "quotas, general_count, loss and seed be those of assemble_dataset and train_policy"
        )
    return (
        f"study: arm {arm.name!r} is the run's own policy under another name; remove it or make "
        "it the reference"
    )


def _check_scaling(dataset: AssembleDatasetConfig) -> None:
    if not dataset.strict_quotas:
        raise ValueError(
            "study.scaling needs assemble_dataset.strict_quotas: true, so that a size the data "
            "cannot fill ends the run instead of making a wrong point"
        )
    if dataset.selection != "fdc" or dataset.general_count is None:
        raise ValueError(
            "study.scaling needs assemble_dataset.selection: fdc and a general_count; otherwise "
            "more than one category's size would change along a curve"
        )
