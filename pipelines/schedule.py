"""Schedules of runs: one per name, one run at a time, nothing made up for missed times.

A RunConfig + a six-field cron -> a recurring run of the compiled version.
"""

import re
from collections.abc import Sequence
from typing import Any

from equilibrate_core.errors import ConfigError
from pipelines.kubeflow_api import KubeflowApi
from pipelines.run_config import RunConfig
from pipelines.submit import Target, compile_run, experiment_id, parse_parameters, upload

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
) -> tuple[dict[str, Any], str]:
    """The schedule of this name and what was done: `created`, `replaced` or `unchanged`."""
    checked = check_cron(cron)
    compiled = compile_run(config)
    body: dict[str, Any] = {
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
    before = _find(api, target, body["display_name"])
    if before is not None:
        if _same(before, body):
            return before, "unchanged"
        # Kubeflow cannot change a schedule. The old one goes first: two would run side by side.
        delete_schedule(api, target, body["display_name"])
    made = api.call("POST", "/recurringruns", body=body)
    return made, "created" if before is None else "replaced"


def list_schedules(api: KubeflowApi, target: Target) -> list[dict[str, Any]]:
    """All schedules of the experiment; none when there is no such experiment."""
    scope = {"namespace": target.namespace} if target.namespace else {}
    experiment = api.named("/experiments", "experiments", target.experiment, **scope)
    if experiment is None:
        return []
    query = {"experiment_id": str(experiment["experiment_id"])}
    return list(api.items("/recurringruns", "recurringRuns", query))


def disable_schedule(api: KubeflowApi, target: Target, name: str) -> None:
    """Stop a schedule from starting runs; those under way go on."""
    api.call("POST", f"/recurringruns/{_existing(api, target, name)}:disable")


def delete_schedule(api: KubeflowApi, target: Target, name: str) -> None:
    """Remove a schedule; its runs stay."""
    api.call("DELETE", f"/recurringruns/{_existing(api, target, name)}")


def describe(schedule: dict[str, Any]) -> str:
    """One line for a person."""
    cron = ((schedule.get("trigger") or {}).get("cron_schedule") or {}).get("cron", "")
    status = str(schedule.get("status") or "").lower()
    return f"{schedule['display_name']}  {cron}  {status}  {schedule['recurring_run_id']}"


def _find(api: KubeflowApi, target: Target, name: str) -> dict[str, Any] | None:
    found = [s for s in list_schedules(api, target) if s["display_name"] == name]
    return found[0] if found else None


def _existing(api: KubeflowApi, target: Target, name: str) -> str:
    found = _find(api, target, name)
    if found is None:
        raise ConfigError(f"no schedule {name!r} in experiment {target.experiment!r}")
    return str(found["recurring_run_id"])


def _same(before: dict[str, Any], body: dict[str, Any]) -> bool:
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
