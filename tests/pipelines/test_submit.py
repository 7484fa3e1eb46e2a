"""Submission: one version per text, exit code of the run, authenticated and verified calls."""

import sys
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from components.publish_model.config import PublishModelConfig
from equilibrate_core.errors import ConfigError
from equilibrate_core.generator_config import GeneratorConfig
from pipelines.cli import main
from pipelines.kubeflow_api import ApiError, connect
from pipelines.kubeflow_config import KubeflowConfig, ResourceChanges
from pipelines.run_config import RunConfig, load_run
from pipelines.submit import (
    NotFollowed,
    Target,
    compile_run,
    parse_parameters,
    submit,
    upload,
    wait,
)
from tests.kfp_api import KfpApi, kfp_api
from tests.pipelines.golden_pipeline import FOLDER

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
RUN_FILE = str(FOLDER / "run.yaml")
RUN = load_run(FOLDER / "run.yaml")
TARGET = Target("weekly")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "KFP_HOST KFP_TOKEN KFP_CA_FILE KFP_UI KF_PIPELINES_SA_TOKEN_PATH"
    for name in (*names.split(), "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def kubeflow() -> Generator[KfpApi]:
    with kfp_api() as api:
        yield api


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["equilibrate", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def edited(config: RunConfig) -> RunConfig:
    section = config.train_policy.model_copy(update={"beta": 0.2})
    return config.model_copy(update={"train_policy": section})


def test_processes_that_are_not_the_accelerators_are_named_before_anything_starts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    compile_run(RUN)  # eight and eight for the policy, one and one for the scorers
    assert "num_processes" not in caplog.text
    policy = RUN.train_policy.model_copy(update={"num_processes": 1})
    reward = RUN.train_scorer.reward.model_copy(update={"num_processes": 2})
    scorers = RUN.train_scorer.model_copy(update={"reward": reward})
    update = {"train_policy": policy, "train_control": policy, "train_scorer": scorers}
    config = RUN.model_copy(update=update)
    compile_run(config)
    found = [line.partition(", and")[0] for line in config.unmatched_processes]
    assert found == [
        "train_scorer.reward.num_processes: 2, but its task on a cluster has accelerators: 1",
        "train_policy.num_processes: 1, but its task on a cluster has accelerators: 8",
        "train_control.num_processes: 1, but its task on a cluster has accelerators: 8",
    ]
    assert all(f"warning: {line}" in caplog.text for line in found)
    cpus = KubeflowConfig(train=ResourceChanges(accelerators=0))
    on_cpus = config.model_copy(update={"kubeflow": cpus})
    assert on_cpus.unmatched_processes == []


def test_key_of_a_judge_that_no_task_would_have_is_named(caplog: pytest.LogCaptureFixture) -> None:
    endpoint = {"backend": "endpoint", "endpoint_url": "https://judge/v1", "endpoint_model": "j"}
    judge = GeneratorConfig.model_validate(endpoint | {"api_key_env": "JUDGE_API_KEY"})
    section = RUN.judge_responses.model_copy(update={"judge": judge})
    config = RUN.model_copy(update={"judge_responses": section})
    compile_run(config)
    assert "judge_responses.judge.api_key_env: no task gets $JUDGE_API_KEY" in caplog.text
    caplog.clear()
    secrets = KubeflowConfig(env_secrets={"JUDGE_API_KEY": "equilibrate-judge"})
    compile_run(config.model_copy(update={"kubeflow": secrets}))
    assert "api_key_env" not in caplog.text


def test_key_of_the_registry_that_no_task_would_have_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = {"server_url": "https://registry", "token_env": "REGISTRY_TOKEN"}
    values = RUN.publish_model.model_dump() | {"model_registry": registry}
    section = PublishModelConfig.model_validate(values)
    compile_run(RUN.model_copy(update={"publish_model": section}))
    assert "publish_model.model_registry.token_env: no task gets $REGISTRY_TOKEN" in caplog.text


def test_a_gate_that_asks_nothing_about_safety_is_named_when_compiled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    compile_run(RUN)
    assert "warning: write_report.gate asks for nothing about safety" in caplog.text
    caplog.clear()
    asked = RUN.write_report.gate.model_copy(update={"min_safety": 0.9, "max_over_refusal": 0.1})
    section = RUN.write_report.model_copy(update={"gate": asked})
    compile_run(RUN.model_copy(update={"write_report": section}))
    assert "write_report.gate" not in caplog.text


def test_submitting_twice_makes_two_runs_of_one_version(kubeflow: KfpApi) -> None:
    api = connect(kubeflow.host)
    one, two = submit(api, RUN, TARGET), submit(api, RUN, TARGET)
    assert kubeflow.names("pipeline") == ["weekly"]
    assert kubeflow.names("version") == [compile_run(RUN).version]
    assert kubeflow.names("experiment") == ["weekly"]
    assert one["pipeline_version_reference"] == two["pipeline_version_reference"]
    assert one["display_name"] != two["display_name"]
    assert one["service_account"] == "equilibrate-pipeline"


def test_another_text_makes_another_version_of_the_same_pipeline(kubeflow: KfpApi) -> None:
    api = connect(kubeflow.host)
    for config in (RUN, edited(RUN), RUN):
        submit(api, config, TARGET)
    assert kubeflow.names("pipeline") == ["weekly"]
    assert len(kubeflow.names("version")) == 2


def test_an_existing_version_is_found_on_a_later_page(kubeflow: KfpApi) -> None:
    api, compiled = connect(kubeflow.host), compile_run(RUN)
    for number in range(5):
        api.call("POST", "/experiments", body={"display_name": f"other-{number}"})
    upload(api, "weekly", compiled, "")
    names = [item["display_name"] for item in api.items("/experiments", "experiments", {})]
    assert names == [f"other-{number}" for number in range(5)]


def test_a_version_that_somebody_else_makes_in_between_is_taken(kubeflow: KfpApi) -> None:
    api, compiled = connect(kubeflow.host), compile_run(RUN)
    first = upload(api, "weekly", compiled, "")
    kubeflow.blind_lists = 1  # of versions: ours looks before theirs is there
    assert upload(api, "weekly", compiled, "") == first
    assert len(kubeflow.names("version")) == 1


def test_parameters_are_checked_against_the_pipeline() -> None:
    types = compile_run(RUN).parameter_types
    given = ["s3_secret=other=keys", 'node_selector={"pool": "a"}', "tolerations=[]"]
    assert parse_parameters(given, types) == {
        "s3_secret": "other=keys",
        "node_selector": {"pool": "a"},
        "tolerations": [],
    }
    for wrong, message in [
        ("no_such=1", "want NAME=VALUE with one of"),
        ("s3_secret", "want NAME=VALUE"),
        ("node_selector=[]", "want STRUCT"),
        ("tolerations={", "not JSON"),
    ]:
        with pytest.raises(ConfigError, match=message):
            parse_parameters([wrong], types)


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELED", 1)])
def test_waiting_ends_with_the_exit_code_of_the_run(
    kubeflow: KfpApi,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: str,
    code: int,
) -> None:
    kubeflow.states = ["PENDING", "RUNNING", "RUNNING", state]
    error = {"code": 1, "message": "out of memory"}
    if state == "FAILED":
        kubeflow.task_details = [
            {"task_id": "1", "display_name": "8 Train policy", "state": "FAILED", "error": error}
        ]
    wanted = ["submit", "-c", RUN_FILE, "--host", kubeflow.host, "--wait", "--poll-s", "0.01"]
    assert call(monkeypatch, *wanted, "-p", "train_policy_memory=1Ti") == code
    shown = capsys.readouterr().out
    (run,) = kubeflow.stored["run"].values()
    assert f"{kubeflow.host}/#/runs/details/{run['run_id']}" in shown
    assert run["runtime_config"]["parameters"] == {"train_policy_memory": "1Ti"}
    assert ("failed task: 8 Train policy out of memory" in shown) == (state == "FAILED")


def test_waiting_outlives_an_api_server_that_is_replaced(kubeflow: KfpApi) -> None:
    api = connect(kubeflow.host)
    run = submit(api, RUN, TARGET)
    kubeflow.failures = [500, 500, 500]
    assert wait(api, run["run_id"], lambda line: None, poll_s=0.01)


def test_waiting_outlives_a_token_that_is_renewed_in_its_file(
    kubeflow: KfpApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mounted = tmp_path / "token"
    mounted.write_text("first")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(mounted))
    monkeypatch.setenv("KFP_TOKEN", "expired long ago")
    kubeflow.token, api = "first", connect(kubeflow.host)
    run = submit(api, RUN, TARGET)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            kubeflow.token = "second"  # the first has expired
        if len(pauses) == 3:
            mounted.write_text("second")

    monkeypatch.setattr("time.sleep", pause)
    assert wait(api, run["run_id"], lambda line: None)


def test_a_token_that_expires_for_good_is_no_mistake_and_the_run_can_be_followed_again(
    kubeflow: KfpApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KFP_TOKEN", "s3cr3t")
    kubeflow.token, kubeflow.looks_until_expiry = "s3cr3t", 2
    kubeflow.states = ["RUNNING"] * 3 + ["SUCCEEDED"]
    host = ["--host", kubeflow.host, "--poll-s", "0.01"]
    assert call(monkeypatch, "submit", "-c", RUN_FILE, "--wait", *host) == 3
    (run,) = kubeflow.stored["run"]
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(shown) == 1 and "the token has expired" in shown[0]
    assert f"Run {run} goes on" in shown[0] and f"`equilibrate follow {run}`" in shown[0]
    assert f"{kubeflow.host}/#/runs/details/{run}" in shown[0]
    kubeflow.looks_until_expiry = None
    assert call(monkeypatch, "follow", run, *host) == 0
    assert f"{run}: succeeded" in capsys.readouterr().out


def test_an_api_that_stays_away_does_not_make_the_run_a_failure(kubeflow: KfpApi) -> None:
    api = connect(kubeflow.host)
    run = submit(api, RUN, TARGET)
    kubeflow.refusals = {f"GET /runs/{run['run_id']}": 500}
    with pytest.raises(NotFollowed, match="goes on"):
        wait(api, run["run_id"], lambda line: None, poll_s=0.001)


def test_a_run_that_is_not_there_is_not_said_to_go_on(kubeflow: KfpApi) -> None:
    with pytest.raises(ApiError, match="404: ResourceNotFoundError"):
        wait(connect(kubeflow.host), "no-such-run", lambda line: None, poll_s=0.01)


def test_without_waiting_the_command_ends_at_once(
    kubeflow: KfpApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeflow.states = ["FAILED"]
    assert call(monkeypatch, "submit", "-c", RUN_FILE, "--host", kubeflow.host) == 0
    assert not [line for line in kubeflow.calls if line.startswith("GET /runs/")]


def test_the_token_comes_from_the_environment_or_the_pods_volume(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with kfp_api(token="s3cr3t") as server:
        api = connect(server.host)
        with pytest.raises(ConfigError, match="401: Unauthenticated; check KFP_TOKEN"):
            api.call("GET", "/experiments")
        monkeypatch.setenv("KFP_TOKEN", "s3cr3t")
        api.call("GET", "/experiments")
        monkeypatch.delenv("KFP_TOKEN")
        mounted = tmp_path / "token"
        mounted.write_text("s3cr3t\n")
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(mounted))
        api.call("GET", "/experiments")


def test_a_token_never_travels_in_the_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_TOKEN", "s3cr3t")
    with pytest.raises(ConfigError, match="would travel in the clear") as error:
        connect("http://kubeflow.example.com").call("GET", "/experiments")
    assert "s3cr3t" not in str(error.value)


def self_signed(address: str) -> tuple[bytes, bytes]:
    """Key and certificate of a server at an address, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret, certificate.public_bytes(pem)


def test_certificates_are_verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificate = tmp_path / "both.pem"
    key, signed = self_signed("127.0.0.1")
    (tmp_path / "cert").write_bytes(signed)
    certificate.write_bytes(key + signed)
    with kfp_api(certificate) as server:
        with pytest.raises(ApiError, match="certificate verify failed"):
            connect(server.host).call("POST", "/experiments", body={"display_name": "x"})
        assert not server.calls
        monkeypatch.setenv("KFP_CA_FILE", str(tmp_path / "cert"))
        connect(server.host).call("GET", "/experiments")


def test_a_missing_host_is_a_clear_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "submit", "-c", RUN_FILE) == 2
    error = capsys.readouterr().err
    assert "KFP_HOST" in error and error.count("\n") == 1


def test_inside_a_cluster_the_host_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert connect().host == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"


def test_the_servers_reason_is_told(kubeflow: KfpApi) -> None:
    api = connect(kubeflow.host)
    with pytest.raises(ApiError, match='unknown field "nam"'):
        api.call("POST", "/experiments", body={"nam": "x"})
