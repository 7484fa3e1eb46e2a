"""The real path of a training over two nodes, its pods being processes of this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from components.train_scorer.stage import train_scorer
from equilibrate_core.artifacts import verify_artifact
from equilibrate_core.json_objects import read_json_object
from equilibrate_core.s3 import download_folder, list_objects, upload_folder
from equilibrate_core.train_node import main
from tests.components.scoring_fixtures import as_dataset, harm_pairs
from tests.equilibrate_core import training_launcher
from tests.equilibrate_core.interrupted_runs import TRAINING
from tests.kube_api import KubeApi
from tests.kube_server import kube_api

pytest_plugins = ["tests.s3_store"]
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_nodes(api: KubeApi, name: str, folder: Path, **more: str) -> list[int]:
    """Run the job's command once for every node, as the Trainer does; exit codes by node."""
    trainer = api.jobs[name]["spec"]["trainer"]
    assert trainer["command"][0] == "python3"
    told = {
        "PET_NNODES": str(trainer["numNodes"]),
        "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(free_port()),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    nodes = []
    for node in range(trainer["numNodes"]):
        scratch = folder / f"node-{node}"
        scratch.mkdir(exist_ok=True)
        own = {"PET_NODE_RANK": str(node), "TMPDIR": str(scratch)}
        nodes.append(
            subprocess.Popen(
                [sys.executable, *trainer["command"][1:], *trainer["args"]],
                cwd=scratch,
                env=os.environ | told | own | more,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    for number, node in enumerate(nodes):
        for line in node.communicate()[0].splitlines():
            api.say(name, line, number)
    return [node.returncode for node in nodes]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # DeepSpeed's first import
def test_two_preempted_nodes_train_what_one_undisturbed_node_does(
    tiny_model: Path,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    as_dataset(tmp_path / "pairs", harm_pairs(24))
    (tmp_path / "base_model").symlink_to(tiny_model)
    for name in ("pairs", "base_model"):
        upload_folder(tmp_path / name, f"{bucket}/run/{name}")
    monkeypatch.setattr(
        training_launcher.train_scorer, "__module__", "tests.equilibrate_core.preempted_node"
    )
    training = TRAINING.model_dump() | {"zero_stage": 2, "learning_rate": 1e-4}
    common: dict[str, Any] = {"kind": "cost", "held_out_share": 0.2}
    codes: list[list[int]] = []

    def play(api: KubeApi, name: str) -> None:
        api.start_pods(name)
        codes.append(start_nodes(api, name, tmp_path, EQUILIBRATE_TEST_PREEMPT="1"))
        api.preempt(name)
        codes.append(start_nodes(api, name, tmp_path))
        (api.complete if codes[-1] == [0, 0] else api.fail)(name)

    monkeypatch.setitem(training_launcher.NODES, "model_cache", None)
    with kube_api(tmp_path, on_create=play) as (_, environment):
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        saved = training | {"checkpoint_uri": f"{bucket}/checkpoints"}
        settings = training_launcher.config(bucket, **common, training=saved)
        metrics = training_launcher.launch(tmp_path, bucket, settings)
    shown = capsys.readouterr().out
    assert codes == [[75, 75], [0, 0]], shown[-3000:]
    assert "resuming after step 3" in shown
    random_states = [x.name for x in list_objects(f"{bucket}/checkpoints/") if "random-" in x.name]
    assert {name[-8:] for name in random_states} == {"00000.pt", "00001.pt"}

    download_folder(f"{bucket}/run/scorer", tmp_path / "scorer")
    verify_artifact(tmp_path / "scorer", "scorer")
    alone = training_launcher.config(bucket, **common, num_nodes=1, training=training)
    expected = train_scorer(
        alone,
        pairs=tmp_path / "pairs",
        base_model=tmp_path / "base_model",
        scorer=tmp_path / "alone",
    )
    assert metrics.logged == pytest.approx(expected, abs=1e-5)
    theirs, ours = (load_file(tmp_path / x / "model.safetensors") for x in ("scorer", "alone"))
    assert theirs.keys() == ours.keys()
    for name, weights in ours.items():
        assert (theirs[name] - weights).abs().max() <= 1e-5, name


def test_a_node_tells_what_stopped_it(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--stage", "none", "--config", "{}", "--input", f"pairs={bucket}/absent"]
    code = main([*arguments, "--output", f"scorer={bucket}/out", "--result", f"{bucket}/out.job"])
    assert code == 2
    record = read_json_object(f"{bucket}/out.job/error-00000.json")
    assert record is not None and record["kind"] == "UserError"
    assert f"{bucket}/absent: nothing there" in record["message"]
    assert record["message"] in capsys.readouterr().err


def test_a_node_with_other_code_than_the_job_was_made_for_does_not_begin(bucket: str) -> None:
    arguments = ["--stage", "none", "--config", "{}", "--code", "train_scorer=0123456789abcdef"]
    arguments += ["--output", f"scorer={bucket}/out", "--result", f"{bucket}/out.job"]
    assert main(arguments) == 2
    record = read_json_object(f"{bucket}/out.job/error-00000.json")
    assert record is not None and "made with code 0123456789abcdef" in record["message"]


def fated_nodes(bucket: str, fate: str, number: int, tmp_path: Path) -> list[subprocess.Popen[str]]:
    """Nodes of one process each, that of rank 1 with this fate."""
    port = str(free_port())
    arguments = ["--stage", "tests.equilibrate_core.lost_peer_stage"]
    arguments += ["--config", json.dumps({"fate": fate})]
    arguments += ["--output", f"target={bucket}/out", "--result", f"{bucket}/out.job"]
    nodes = []
    for rank in range(number):
        told = {
            "PET_NNODES": str(number),
            "PET_NODE_RANK": str(rank),
            "PET_NPROC_PER_NODE": "1",
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": port,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        log = (tmp_path / f"node-{rank}.log").open("w")
        nodes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.equilibrate_core.hasty_node", *arguments],
                env=os.environ | told,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        log.close()
    return nodes


@pytest.mark.parametrize(
    ("fate", "codes", "says"),
    [
        # The runtime's rules start again what ends with 75 only.
        ("killed", [75, -signal.SIGKILL], "one was lost, all start again"),
        ("errs", [1, 2], "node 1 failed: a row that cannot be used"),
        ("crashes", [1, 1], "node 1 failed: tests.equilibrate_core.lost_peer_stage: torchrun"),
    ],
)
def test_a_node_that_lost_another_one_starts_again_unless_that_one_had_an_error(
    bucket: str, tmp_path: Path, fate: str, codes: list[int], says: str
) -> None:
    nodes = fated_nodes(bucket, fate, 2, tmp_path)
    ended = [node.wait(timeout=180) for node in nodes]
    shown = [(tmp_path / f"node-{rank}.log").read_text() for rank in (0, 1)]
    assert ended == codes, "\n".join(shown)
    assert "another process of this training went away" in shown[0]
    assert says in shown[0]
    if fate == "crashes":
        assert "process 1 with 9" in shown[1]
    told = read_json_object(f"{bucket}/out.job/error-00000.json")
    assert told is None, "the launching task would show this node's error for the other's"


def wait_for(path: Path, text: str, node: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while text not in path.read_text():
        assert node.poll() is None and time.monotonic() < deadline, path.read_text()
        time.sleep(0.05)


def test_a_node_told_to_stop_before_its_training_begins_ends_as_preempted(
    bucket: str, tmp_path: Path
) -> None:
    (node,) = fated_nodes(bucket, "waits", 1, tmp_path)
    wait_for(tmp_path / "node-0.log", "begun", node)
    node.terminate()
    assert node.wait(timeout=60) == 75, (tmp_path / "node-0.log").read_text()
    assert read_json_object(f"{bucket}/out.job/error-00000.json") is None


def test_a_node_told_to_stop_while_it_downloads_ends_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes a call and never answers
        arguments = ["--stage", "none", "--config", "{}", "--input", "pairs=s3://bucket/pairs"]
        arguments += ["--output", "scorer=s3://bucket/out"]
        arguments += ["--result", "s3://bucket/out.job"]
        keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (tmp_path / "log").open("w") as log:
            node = subprocess.Popen(
                [sys.executable, "-m", "equilibrate_core.train_node", *arguments],
                env=os.environ | keys | {"AWS_ENDPOINT_URL_S3": endpoint, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        wait_for(tmp_path / "log", "fetching pairs", node)
        node.terminate()
        assert node.wait(timeout=20) == 75, (tmp_path / "log").read_text()
