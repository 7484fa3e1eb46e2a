"""Schedules of runs: one per name, one run at a time, nothing made up for missed times.

A RunConfig + a six-field cron -> a recurring run of the compiled version.
"""

import re
from collections.abc import Sequence
from typing import Any

from equilibrate_core.errors import ConfigError, EquilibrateError
from pipelines.kubeflow_api import KubeflowApi
from pipelines.run_config import RunConfig
from pipelines.submit import Target, compile_run, experiment_id, parse_parameters, upload

Schedule = dict[str, Any]
"""A recurring run as the API gives and takes it."""
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
# Field, least and greatest value, names of values.
FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("seconds", 0, 59, {}),
    ("minutes", 0, 59, {}),
    ("hours", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, {name: i + 1 for i, name in enumerate(MONTHS)}),
    ("day of week", 0, 6, {name: i for i, name in enumerate(DAYS)}),
)
_PART = re.compile(r"(?P<first>\*|\?|\w+)(-(?P<last>\w+))?(/(?P<step>\d+))?")


def check_cron(cron: str) -> str:
    """The cron with single spaces. Raises ConfigError unless it has six sound fields."""
    parts = cron.split()
    if len(parts) == 5:
        raise ConfigError(
            f"--cron {cron!r}: has five fields; Kubeflow's have six, seconds first: "
            f"'0 {' '.join(parts)}'"
        )
    if len(parts) != len(FIELDS):
        names = ", ".join(name for name, *_ in FIELDS)
        raise ConfigError(f"--cron {cron!r}: want six fields: {names}; e.g. '0 0 3 * * MON'")
    for part, field in zip(parts, FIELDS, strict=True):
        for item in part.split(","):
            _check_item(cron, item, field)
    return " ".join(parts)


def create_schedule(
    api: KubeflowApi,
    config: RunConfig,
    target: Target,
    *,
    cron: str,
    name: str = "",
    parameters: Sequence[str] = (),
) -> tuple[Schedule, str]:
    """The schedule of this name and what was done: `created`, `replaced` or `unchanged`."""
    checked = check_cron(cron)
    compiled = compile_run(config)
    body: Schedule = {
        "display_name": name or config.name,
        "experiment_id": experiment_id(api, target),
        "pipeline_version_reference": upload(api, config.name, compiled, target.namespace),
        "runtime_config": {"parameters": parse_parameters(parameters, compiled.parameter_types)},
        "trigger": {"cron_schedule": {"cron": checked}},
        "mode": "ENABLE",
        "max_concurrency": "1",
        "no_catchup": True,
        "service_account": target.service_account,
    }
    before = _named(api, target, body["display_name"])
    if len(before) == 1 and _same(before[0], body):
        return before[0], "unchanged"
    made = _replace(api, before, body)
    return made, "replaced" if before else "created"


def list_schedules(api: KubeflowApi, target: Target) -> list[Schedule]:
    """All schedules of the experiment; none when there is no such experiment."""
    scope = {"namespace": target.namespace} if target.namespace else {}
    experiment = api.named("/experiments", "experiments", target.experiment, **scope)
    if experiment is None:
        return []
    query = {"experiment_id": str(experiment["experiment_id"])}
    return list(api.items("/recurringruns", "recurringRuns", query))


def disable_schedule(api: KubeflowApi, target: Target, name: str) -> None:
    """Stop a schedule from starting runs; those under way go on."""
    _switch(api, _existing(api, target, name), "disable")


def delete_schedule(api: KubeflowApi, target: Target, name: str) -> None:
    """Remove a schedule; its runs stay."""
    _delete(api, _existing(api, target, name))


def describe(schedule: Schedule) -> str:
    """One line for a person."""
    cron = ((schedule.get("trigger") or {}).get("cron_schedule") or {}).get("cron", "")
    status = str(schedule.get("status") or "").lower()
    return f"{schedule['display_name']}  {cron}  {status}  {schedule['recurring_run_id']}"


def _replace(api: KubeflowApi, before: list[Schedule], body: Schedule) -> Schedule:
    """Create a schedule in the place of others, which go on when it cannot be created.

    Kubeflow cannot change a schedule, and two must not run side by side: the old one rests first.
    """
    running = [schedule for schedule in before if schedule.get("status") == "ENABLED"]
    _switch(api, running, "disable")
    try:
        made = api.call("POST", "/recurringruns", body=body)
    except EquilibrateError:
        _switch(api, running, "enable")
        raise
    _delete(api, before)
    return made


def _switch(api: KubeflowApi, schedules: list[Schedule], action: str) -> None:
    for schedule in schedules:
        api.call("POST", f"/recurringruns/{schedule['recurring_run_id']}:{action}")


def _delete(api: KubeflowApi, schedules: list[Schedule]) -> None:
    for schedule in schedules:
        api.call("DELETE", f"/recurringruns/{schedule['recurring_run_id']}")


def _named(api: KubeflowApi, target: Target, name: str) -> list[Schedule]:
    """Schedules of this name: one, or two where replacing one was interrupted."""
    return [s for s in list_schedules(api, target) if s["display_name"] == name]


def _existing(api: KubeflowApi, target: Target, name: str) -> list[Schedule]:
    found = _named(api, target, name)
    if not found:
        raise ConfigError(f"no schedule {name!r} in experiment {target.experiment!r}")
    return found


def _same(before: Schedule, body: Schedule) -> bool:
    if before.get("status") != "ENABLED":
        return False
    keys = ("pipeline_version_reference", "trigger", "service_account")
    if any(before.get(key) != body[key] for key in keys):
        return False
    parameters = (before.get("runtime_config") or {}).get("parameters") or {}
    return (
        parameters == body["runtime_config"]["parameters"]
        and str(before.get("max_concurrency")) == body["max_concurrency"]
        and bool(before.get("no_catchup"))
    )


def _check_item(cron: str, item: str, field: tuple[str, int, int, dict[str, int]]) -> None:
    name, least, greatest, names = field
    match = _PART.fullmatch(item)
    values = [match["first"], match["last"]] if match else ["-"]
    numbers = [
        names.get(v.upper(), int(v) if v.isdecimal() else -1)
        for v in values
        if v is not None and v not in ("*", "?")
    ]
    sound = all(least <= n <= greatest for n in numbers) and numbers == sorted(numbers)
    if not match or not sound or match["step"] == "0":
        raise ConfigError(f"--cron {cron!r}: {name}: {item!r} is not within {least}-{greatest}")
