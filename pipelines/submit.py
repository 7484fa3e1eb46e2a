"""Hand a run to Kubeflow: one pipeline per run file, one version per compiled text, one run.

A RunConfig -> pipeline and version (uploaded only if the text is new) -> a run, followed to its end
if asked. Submitting the same file twice makes two runs of one version.
"""

import hashlib
import itertools
import json
import logging
import secrets
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.record_run.run_api import view_run
from equilibrate_core.errors import ConfigError, EquilibrateError
from pipelines.kubeflow_api import ApiError, KubeflowApi
from pipelines.run_config import RunConfig
from pipelines.validation import gate_gaps

log = logging.getLogger(__name__)

ENDED = {"SUCCEEDED": True, "FAILED": False, "CANCELED": False, "SKIPPED": False}
MAX_LOST_POLLS = 20
MAX_REFUSED_POLLS = 4
"""Looks with a token that is not taken any more: time for a mounted one to be renewed."""
PARAMETER_TYPES: dict[str, tuple[type, ...]] = {
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list,),
    "STRUCT": (dict,),
}


class NotFollowed(EquilibrateError):
    """A run goes on, but how it goes can no longer be seen from here."""

    exit_code = 3


@dataclass(frozen=True)
class Compiled:
    """A run compiled for a cluster."""

    text: str
    parameter_types: dict[str, str]

    @property
    def version(self) -> str:
        """Name of the pipeline version: equal texts have equal names."""
        return f"sha256-{hashlib.sha256(self.text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Target:
    """Whose run it is: the experiment it is listed under, its namespace and account."""

    experiment: str
    namespace: str = ""
    """Of multi-user installations; empty otherwise."""
    service_account: str = "equilibrate-pipeline"


def compile_run(config: RunConfig) -> Compiled:
    """Compile a run to the YAML that Kubeflow takes.

    Warns of keys that no task would have, of processes without an accelerator or the reverse, and
    of a gate that does not ask about safety.
    """
    from kfp import compiler
    from kfp.pipeline_spec import pipeline_spec_pb2

    from pipelines.alignment import alignment_pipeline

    for where, key in keys_without_secret(config):
        log.warning(
            "warning: %s: no task gets $%s; name the secret that has it: "
            "kubeflow: {env_secrets: {%s: SECRET}}",
            where,
            key,
            key,
        )
    for line in config.unmatched_processes:
        log.warning("warning: %s", line)
    for line in gate_gaps(config):
        log.warning("warning: %s", line)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="kfp")
        path = Path(folder) / "pipeline.yaml"
        pipeline = alignment_pipeline(config, cluster=True)
        compiler.Compiler().compile(pipeline, str(path))
        text = without_comments(path.read_text(encoding="utf-8"))
    inputs = pipeline.pipeline_spec.root.input_definitions.parameters
    type_name = pipeline_spec_pb2.ParameterType.ParameterTypeEnum.Name
    return Compiled(text, {n: type_name(inputs[n].parameter_type) for n in inputs})


def keys_without_secret(config: RunConfig) -> list[tuple[str, str]]:
    """Where the run file names a key, and its variable, that no secret brings into the tasks."""
    kubeflow = config.kubeflow
    given = {*kubeflow.env_secrets, *(kubeflow.secret_variables if kubeflow.s3_secret else ())}
    return [(where, key) for where, key in config.keys if key not in given]


def without_comments(text: str) -> str:
    """Compiled YAML less kfp's opening comments.

    They list maps in an order that changes from one process to the next, and equal pipelines must
    have equal texts.
    """
    lines = text.splitlines(keepends=True)
    return "".join(itertools.dropwhile(lambda line: line.startswith("#"), lines))


def parse_parameters(pairs: Sequence[str], types: Mapping[str, str]) -> dict[str, Any]:
    """Run-time parameters from NAME=VALUE; lists, maps and numbers are JSON."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in types:
            raise ConfigError(
                f"--param {pair}: want NAME=VALUE with one of {', '.join(sorted(types))}"
            )
        values[name] = text
        wanted = PARAMETER_TYPES.get(types[name])
        if wanted is not None:
            try:
                values[name] = json.loads(text)
            except ValueError as error:
                raise ConfigError(f"--param {name}: not JSON: {error}") from error
            if not isinstance(values[name], wanted):
                raise ConfigError(f"--param {name}: want {types[name]}, got {text}")
    return values


def upload(api: KubeflowApi, name: str, compiled: Compiled, namespace: str) -> dict[str, str]:
    """Reference to the pipeline version with this text, made unless it is there already."""
    scope = {"namespace": namespace} if namespace else {}
    pipeline = api.named("/pipelines", "pipelines", name, **scope)
    if pipeline is None:
        pipeline = _create_or_find(
            lambda: api.call("POST", "/pipelines", body={"display_name": name, **scope}),
            lambda: api.named("/pipelines", "pipelines", name, **scope),
        )
    pipeline_id = str(pipeline["pipeline_id"])
    where = (f"/pipelines/{pipeline_id}/versions", "pipeline_versions", compiled.version)
    query = {"name": compiled.version, "pipelineid": pipeline_id}
    version = api.named(*where) or _create_or_find(
        lambda: api.call(
            "POST", "/pipelines/upload_version", query=query, upload=compiled.text.encode()
        ),
        lambda: api.named(*where),
    )
    return {"pipeline_id": pipeline_id, "pipeline_version_id": version["pipeline_version_id"]}


def experiment_id(api: KubeflowApi, target: Target) -> str:
    """Id of the experiment, made unless it is there."""
    scope = {"namespace": target.namespace} if target.namespace else {}
    found = api.named("/experiments", "experiments", target.experiment, **scope)
    if found is None:
        body = {"display_name": target.experiment, **scope}
        found = _create_or_find(
            lambda: api.call("POST", "/experiments", body=body),
            lambda: api.named("/experiments", "experiments", target.experiment, **scope),
        )
    return str(found["experiment_id"])


def submit(
    api: KubeflowApi,
    config: RunConfig,
    target: Target,
    *,
    run_name: str = "",
    parameters: Sequence[str] = (),
) -> dict[str, Any]:
    """Start a run and return it as the API tells it."""
    compiled = compile_run(config)
    values = parse_parameters(parameters, compiled.parameter_types)
    body = {
        "display_name": run_name or unique_name(config.name),
        "experiment_id": experiment_id(api, target),
        "pipeline_version_reference": upload(api, config.name, compiled, target.namespace),
        "runtime_config": {"parameters": values},
        "service_account": target.service_account,
    }
    return api.call("POST", "/runs", body=body)


def unique_name(name: str) -> str:
    """A run's name that no other run has."""
    return f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def run_link(api: KubeflowApi, run: Mapping[str, Any]) -> str:
    """Address of the run in the UI."""
    return f"{api.ui}/#/runs/details/{run['run_id']}"


def wait(
    api: KubeflowApi, run_id: str, say: Callable[[str], None], *, poll_s: float = 15.0
) -> bool:
    """Follow a run to its end, however long that takes; whether it succeeded.

    Raises NotFollowed when the API stays away, or takes none of our tokens any more.
    """
    state, lost, refused = "", 0, 0
    while True:
        try:
            run = api.call("GET", f"/runs/{run_id}")
            lost = refused = 0
        except (ApiError, ConfigError) as error:
            # An API server that is being replaced does not end our run, nor does a token.
            lost, refused = lost + 1, refused + isinstance(error, ConfigError)
            if getattr(error, "status", 0) == 404:
                raise
            if lost == MAX_LOST_POLLS or refused == MAX_REFUSED_POLLS:
                raise NotFollowed(
                    f"{error}. Run {run_id} goes on, it is only not followed any more: "
                    f"`equilibrate follow {run_id}` does that again (with a new KFP_TOKEN if the "
                    f"old one has expired), and {run_link(api, {'run_id': run_id})} shows it"
                ) from error
            time.sleep(poll_s)
            continue
        if run.get("state") != state:
            state = run.get("state") or ""
            say(f"{run_id}: {state.lower() or 'created'}")
        if state in ENDED:
            view = view_run(run)
            if view.failed_task:
                say(f"failed task: {view.failed_task} {view.failed_reason}".rstrip())
            return ENDED[state]
        time.sleep(poll_s)


def _create_or_find(
    create: Callable[[], dict[str, Any]], find: Callable[[], dict[str, Any] | None]
) -> dict[str, Any]:
    """Create an object, or take the one that somebody else created in between."""
    try:
        return create()
    except ApiError as error:
        found = find() if error.status == 409 else None
        if found is None:
            raise
        return found
