"""Schedules: six fields or a clear word, one run at a time, one schedule per name."""

from collections.abc import Generator

import pytest

from equilibrate_core.errors import ConfigError
from pipelines.kubeflow_api import ApiError, KubeflowApi, connect
from pipelines.schedule import (
    check_cron,
    create_schedule,
    delete_schedule,
    disable_schedule,
    list_schedules,
)
from pipelines.submit import Target
from tests.kfp_api import KfpApi, kfp_api
from tests.pipelines.test_submit import RUN, RUN_FILE, call, edited

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
TARGET = Target("weekly")
MONDAYS = "0 0 3 * * MON"


@pytest.fixture
def kubeflow() -> Generator[KfpApi]:
    with kfp_api() as server:
        yield server


@pytest.fixture
def api(kubeflow: KfpApi) -> KubeflowApi:
    return connect(kubeflow.host)


@pytest.mark.parametrize(
    "cron", [MONDAYS, "*/10 0-5 3,15 1-31/2 JAN-MAR ?", "59 59 23 31 12 6", "0  0 3 * * 1"]
)
def test_six_sound_fields_pass(cron: str) -> None:
    assert check_cron(cron) == " ".join(cron.split())


@pytest.mark.parametrize(
    ("cron", "message"),
    [
        ("0 3 * * 1", "has five fields; Kubeflow's have six, seconds first: '0 0 3 * * 1'"),
        ("@weekly", "want six fields"),
        ("0 0 3 * * * *", "want six fields"),
        ("60 0 3 * * 1", "seconds: '60' is not within 0-59"),
        ("0 0 24 * * 1", "hours: '24'"),
        ("0 0 3 0 * 1", "day of month: '0'"),
        ("0 0 3 * FEV 1", "month: 'FEV'"),
        ("0 0 3 * * 7", "day of week: '7' is not within 0-6"),
        ("0 30-10 3 * * 1", "minutes: '30-10'"),
        ("0 */0 3 * * 1", "minutes: '*/0'"),
        ("0 0 3 * * MON;", "day of week"),
    ],
)
def test_anything_else_is_named(cron: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_cron(cron)
    assert message in str(error.value)


def test_one_run_at_a_time_and_nothing_is_caught_up(api: KubeflowApi, kubeflow: KfpApi) -> None:
    made, what = create_schedule(api, RUN, TARGET, cron=MONDAYS, parameters=["s3_secret=x"])
    assert what == "created"
    assert made["max_concurrency"] == "1" and made["no_catchup"] is True
    assert made["trigger"] == {"cron_schedule": {"cron": MONDAYS}}
    assert made["runtime_config"] == {"parameters": {"s3_secret": "x"}}
    assert made["status"] == "ENABLED"


def test_creating_again_changes_nothing_unless_something_differs(
    api: KubeflowApi, kubeflow: KfpApi
) -> None:
    first, _ = create_schedule(api, RUN, TARGET, cron=MONDAYS)
    again, what = create_schedule(api, RUN, TARGET, cron=MONDAYS)
    assert (what, again["recurring_run_id"]) == ("unchanged", first["recurring_run_id"])
    _, what = create_schedule(api, RUN, TARGET, cron="0 0 4 * * MON")
    assert what == "replaced"
    _, what = create_schedule(api, edited(RUN), TARGET, cron="0 0 4 * * MON")
    assert what == "replaced"
    assert kubeflow.names("recurring_run") == ["weekly"]
    assert len(kubeflow.names("version")) == 2


def test_a_disabled_schedule_is_switched_on_by_creating_it(api: KubeflowApi) -> None:
    create_schedule(api, RUN, TARGET, cron=MONDAYS)
    disable_schedule(api, TARGET, "weekly")
    (schedule,) = list_schedules(api, TARGET)
    assert schedule["status"] == "DISABLED"
    assert create_schedule(api, RUN, TARGET, cron=MONDAYS)[1] == "replaced"
    (schedule,) = list_schedules(api, TARGET)
    assert schedule["status"] == "ENABLED"


def test_schedule_that_cannot_be_replaced_goes_on(api: KubeflowApi, kubeflow: KfpApi) -> None:
    first, _ = create_schedule(api, RUN, TARGET, cron=MONDAYS)
    kubeflow.refusals["POST /recurringruns"] = 400
    with pytest.raises(ApiError, match="planted refusal"):
        create_schedule(api, RUN, TARGET, cron="0 0 4 * * MON")
    (schedule,) = list_schedules(api, TARGET)
    assert (schedule["recurring_run_id"], schedule["status"]) == (
        first["recurring_run_id"],
        "ENABLED",
    )


def test_what_an_interrupted_replacement_left_behind_is_replaced_too(
    api: KubeflowApi, kubeflow: KfpApi
) -> None:
    first, _ = create_schedule(api, RUN, TARGET, cron=MONDAYS)
    kubeflow.refusals[f"DELETE /recurringruns/{first['recurring_run_id']}"] = 400
    with pytest.raises(ApiError, match="planted refusal"):
        create_schedule(api, RUN, TARGET, cron="0 0 4 * * MON")
    assert [s["status"] for s in list_schedules(api, TARGET)] == ["DISABLED", "ENABLED"]
    kubeflow.refusals.clear()
    create_schedule(api, RUN, TARGET, cron="0 0 4 * * MON")
    (schedule,) = list_schedules(api, TARGET)
    assert schedule["trigger"] == {"cron_schedule": {"cron": "0 0 4 * * MON"}}


def test_schedules_of_one_experiment_are_listed_over_all_pages(api: KubeflowApi) -> None:
    for number in range(3):
        create_schedule(api, RUN, TARGET, cron=MONDAYS, name=f"s{number}")
    create_schedule(api, RUN, Target("other"), cron=MONDAYS)
    names = [schedule["display_name"] for schedule in list_schedules(api, TARGET)]
    assert names == ["s0", "s1", "s2"]
    assert list_schedules(api, Target("nowhere")) == []


def test_deleting_removes_the_schedule_and_a_wrong_name_is_a_mistake(
    api: KubeflowApi, kubeflow: KfpApi
) -> None:
    create_schedule(api, RUN, TARGET, cron=MONDAYS)
    with pytest.raises(ConfigError, match="no schedule 'wekly' in experiment 'weekly'"):
        delete_schedule(api, TARGET, "wekly")
    delete_schedule(api, TARGET, "weekly")
    assert kubeflow.names("recurring_run") == []


def test_the_commands_do_all_of_it(
    kubeflow: KfpApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--host", kubeflow.host]
    assert call(monkeypatch, "schedule", "create", "-c", RUN_FILE, "--cron", MONDAYS, *where) == 0
    assert call(monkeypatch, "schedule", "list", *where) == 0
    assert capsys.readouterr().out.count(f"weekly  {MONDAYS}  enabled") == 2
    assert call(monkeypatch, "schedule", "disable", "weekly", *where) == 0
    assert call(monkeypatch, "schedule", "delete", "weekly", *where) == 0
    assert kubeflow.names("recurring_run") == []


def test_five_fields_are_refused_before_anything_is_uploaded(
    kubeflow: KfpApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["schedule", "create", "-c", RUN_FILE, "--cron", "0 3 * * 1"]
    assert call(monkeypatch, *wanted, "--host", kubeflow.host) == 2
    assert "seconds first: '0 0 3 * * 1'" in capsys.readouterr().err
    assert kubeflow.calls == []
