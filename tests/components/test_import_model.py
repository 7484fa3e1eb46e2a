"""import_model accepts models and only models."""

import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from transformers import AutoModelForCausalLM

from components.import_model.config import ImportModelConfig
from components.import_model.stage import import_model
from equilibrate_core.artifacts import read_manifest, verify_artifact
from equilibrate_core.errors import ModelError
from equilibrate_core.s3 import upload_folder
from equilibrate_core.small_model import (
    GGUF,
    cache_folder,
    convert_small_model,
    small_model,
)

pytest_plugins = ["tests.s3_store"]


def imported(uri: str, target: Path, **options: str) -> Path:
    import_model(ImportModelConfig(uri=uri, **options), base_model=target)
    return target


def test_a_folder_becomes_a_sealed_artifact_with_the_same_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    artifact = imported(str(tiny_model), tmp_path / "base")
    manifest = verify_artifact(artifact, "model")
    assert (
        manifest.files["model.safetensors"]
        == (verify_artifact(tiny_model).files["model.safetensors"])
    )


def test_a_model_in_s3_is_the_same_model(tiny_model: Path, tmp_path: Path, bucket: str) -> None:
    upload_folder(tiny_model, f"{bucket}/model")
    local = verify_artifact(imported(str(tiny_model), tmp_path / "a"))
    remote = verify_artifact(imported(f"{bucket}/model", tmp_path / "b"))
    assert local.digest == remote.digest


def test_dtype_converts_the_stored_weights(tiny_model: Path, tmp_path: Path) -> None:
    artifact = imported(str(tiny_model), tmp_path / "base", dtype="bfloat16")
    assert str(AutoModelForCausalLM.from_pretrained(artifact).dtype) == "torch.bfloat16"


def without(folder: Path, target: Path, pattern: str) -> Path:
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(pattern, "manifest.json"))
    return target


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "no config.json"),
        ("*.safetensors", "pickled weights are not loaded"),
        ("tokenizer.json", "no tokenizer.json"),
    ],
)
def test_a_folder_that_is_no_model_is_one_clear_error(
    tiny_model: Path, tmp_path: Path, missing: str, message: str
) -> None:
    folder = without(tiny_model, tmp_path / "source", missing)
    with pytest.raises(ModelError, match=message):
        imported(str(folder), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_an_unknown_architecture_is_one_clear_error(tiny_model: Path, tmp_path: Path) -> None:
    folder = without(tiny_model, tmp_path / "source", "nothing")
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(ModelError, match="not a usable model"):
        imported(str(folder), tmp_path / "base")


def test_a_model_without_a_chat_template_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = without(tiny_model, tmp_path / "source", "chat_template.jinja")
    with pytest.raises(ModelError, match="no chat template"):
        imported(str(folder), tmp_path / "base")


def test_an_absent_path_and_a_broken_gguf_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        imported(str(tmp_path / "none"), tmp_path / "base")
    (tmp_path / "x.gguf").write_text("no model")
    with pytest.raises(ModelError, match=r"x\.gguf: not a usable GGUF model"):
        imported(str(tmp_path / "x.gguf"), tmp_path / "base")


def test_a_damaged_small_model_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUILIBRATE_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="equilibrate fetch-model"):
        imported("smollm2", tmp_path / "base")
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_text("half a file")
    with pytest.raises(ModelError, match="digest differs"):
        imported("smollm2", tmp_path / "base")


def test_the_small_model_converted_beforehand_is_what_a_run_would_convert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported("smollm2", tmp_path / "first")  # make test fetches it
    gguf = cache_folder() / GGUF
    monkeypatch.setenv("EQUILIBRATE_CACHE", str(tmp_path))
    (tmp_path / GGUF).symlink_to(gguf)
    imported("smollm2", tmp_path / "second")  # nothing but the GGUF there
    first, second = (read_manifest(tmp_path / name) for name in ("first", "second"))
    assert first.digest == second.digest


def test_an_altered_conversion_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = cache_folder() / GGUF
    monkeypatch.setenv("EQUILIBRATE_CACHE", str(tmp_path))
    (tmp_path / GGUF).symlink_to(gguf)
    folder = convert_small_model()
    assert small_model() == folder
    (folder / "config.json").write_text("{}")
    assert small_model() == tmp_path / GGUF
    assert convert_small_model() == small_model() == folder


FIRST, PUSHED = "a" * 40, "b" * 40
IMPORT = """
import sys
from types import SimpleNamespace
from components.import_model.config import ImportModelConfig
from components.import_model.stage import import_model
from equilibrate_core.digests import code_digest
from equilibrate_core.launch import launch
config, input_digests, target = sys.argv[1:]
metrics = SimpleNamespace(path=f"{target}.metrics", log_metric=lambda *_: None)
base_model = SimpleNamespace(path=target)
launch(import_model, ImportModelConfig, config, metrics,
       code_digest=code_digest("import_model"), input_digests=input_digests, base_model=base_model)
"""


class ModelHub(BaseHTTPRequestHandler):
    """A hub with one model, whose branch was pushed to: another README at either commit."""

    protocol_version = "HTTP/1.1"
    folder: ClassVar[Path]
    read: ClassVar[list[str]]
    """Revisions that files were asked for at."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        files = sorted(file for file in self.folder.iterdir())
        commits = {"main": PUSHED, FIRST: FIRST, PUSHED: PUSHED}
        parts = path.strip("/").split("/")
        if parts[:4] == ["api", "models", "org", "tiny"] and parts[4:5] == ["tree"]:
            self.read.append(parts[5])
            sizes = {file.name: file.stat().st_size for file in files} | {"README.md": len(FIRST)}
            entries = [
                {"type": "file", "path": name, "size": size, "oid": f"{parts[5][0]}-{name}"}
                for name, size in sizes.items()
            ]
            return self.answer(json.dumps(entries).encode(), {})
        if parts[:4] == ["api", "models", "org", "tiny"]:
            commit = commits[parts[5] if parts[4:5] == ["revision"] else "main"]
            siblings = [{"rfilename": file.name} for file in files]
            about = {"id": "org/tiny", "sha": commit, "siblings": siblings, "tags": []}
            return self.answer(json.dumps(about).encode(), {})
        if parts[:3] != ["org", "tiny", "resolve"]:
            return self.answer(b"{}", {}, 404)
        asked, name = parts[3:]
        self.read.append(asked)
        commit = commits[asked]
        content = commit.encode() if name == "README.md" else (self.folder / name).read_bytes()
        headers = {"ETag": f'"{commit[0]}-{name}"', "X-Repo-Commit": commit}
        return self.answer(content, headers)

    do_HEAD = do_GET

    def answer(self, body: bytes, headers: dict[str, str], code: int = 200) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("digest", "expected"), [(FIRST, FIRST), (None, PUSHED)])
def test_a_branch_is_read_at_the_commit_that_the_run_began_with(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    digest: str | None,
    expected: str,
) -> None:
    shutil.copytree(
        tiny_model, tmp_path / "hub", ignore=shutil.ignore_patterns("manifest.json", "metrics.json")
    )
    (tmp_path / "hub" / "README.md").touch()
    ModelHub.folder, ModelHub.read = tmp_path / "hub", []
    before = {"hf://org/tiny@main": f"hf:{digest}"} if digest else {}
    config = json.dumps({"uri": "hf://org/tiny", "revision": "main"})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), ModelHub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        arguments = [config, json.dumps(before), str(tmp_path / "base")]
        command = [sys.executable, "-c", IMPORT, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert set(ModelHub.read) == {expected}
    assert (tmp_path / "base" / "README.md").read_text() == expected
    assert read_manifest(tmp_path / "base").stage == "import_model"
