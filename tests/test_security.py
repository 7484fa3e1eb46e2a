"""What the threat model promises, checked over the whole source and on planted secrets."""

import ast
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from components.import_model.config import ImportModelConfig
from components.import_model.stage import import_model
from equilibrate_core.config import parse_config
from equilibrate_core.errors import ModelError, StorageError
from equilibrate_core.redaction import redact, secret_values
from equilibrate_core.stage import configure_logging, report_error
from pipelines.console import RunConsole
from pipelines.run_config import RunConfig
from pipelines.submit import compile_run

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    p
    for folder in ("equilibrate_core", "components", "pipelines")
    for p in ROOT.glob(f"{folder}/**/*.py")
)
PLANTED = "planted-7d1f0c55e9a2"
SANDBOX = "components/score_benchmarks/sandbox_child.py"  # runs model-written code, locked up


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str, object]]]:
    """(dotted name, literal keyword arguments) of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keywords = {
                k.arg: k.value.value if isinstance(k.value, ast.Constant) else ...
                for k in node.keywords
                if k.arg
            }
            yield ast.unparse(node.func), keywords


def unsafe(source: str) -> list[str]:
    """Constructs that load code from data, or hand data to a shell."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [
            n for n in names if n.split(".")[0] in ("pickle", "dill", "joblib", "shelve", "marshal")
        ]
    for name, keywords in calls(tree):
        last = name.rsplit(".", 1)[-1]
        if name in ("eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load"):
            found.append(name)
        if name == "torch.load" and keywords.get("weights_only") is not True:
            found.append("torch.load without weights_only=True")
        if keywords.get("allow_pickle") or keywords.get("shell") or keywords.get("verify") is False:
            found.append(f"{name} with {keywords}")
        if keywords.get("trust_remote_code") is True:
            found.append(f"{name} with trust_remote_code=True")
        if last == "from_pretrained" and "trust_remote_code" not in keywords:
            found.append(f"{name} without a word on trust_remote_code")
        model = last == "from_pretrained" and "Model" in name and "gguf_file" not in keywords
        if model and keywords.get("use_safetensors") is not True:
            found.append(f"{name} without use_safetensors=True")
        if name in ("LLM", "VLLM") and keywords.get("load_format") != "safetensors":
            found.append(f"{name} that may load pickles")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_source_loads_no_code_from_data(path: Path) -> None:
    found = unsafe(path.read_text())
    if path.relative_to(ROOT).as_posix() == SANDBOX:
        found.remove("exec")
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "numpy.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "httpx.get(url, verify=False)",
        "AutoTokenizer.from_pretrained(folder)",
        "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)",
        "AutoModel.from_pretrained(folder, trust_remote_code=False)",
        "LLM(model=folder)",
    ],
)
def test_planted_unsafe_line_is_caught(line: str) -> None:
    assert unsafe(line)


def poisoned(model: Path, target: Path, **config: object) -> Path:
    """A copy of a model whose own Python code leaves a mark when it runs."""
    target.mkdir()
    for path in model.iterdir():
        if path.name != "manifest.json":
            (target / path.name).write_bytes(path.read_bytes())
    code = f"import pathlib\npathlib.Path({str(target / 'ran')!r}).touch()\n"
    code += "from transformers import LlamaConfig as PoisonedConfig\n"
    (target / "configuration_poisoned.py").write_text(code)
    values = json.loads((target / "config.json").read_text())
    values |= {"auto_map": {"AutoConfig": "configuration_poisoned.PoisonedConfig"}, **config}
    (target / "config.json").write_text(json.dumps(values))
    (target / "pytorch_model.bin").write_bytes(b"pickle")
    return target


def test_code_in_a_model_neither_runs_nor_travels(tiny_model: Path, tmp_path: Path) -> None:
    source = poisoned(tiny_model, tmp_path / "known")
    import_model(ImportModelConfig(uri=str(source)), base_model=tmp_path / "base")
    names = {path.name for path in (tmp_path / "base").iterdir()}
    assert not (source / "ran").exists()
    assert not names & {"configuration_poisoned.py", "pytorch_model.bin"}


def test_a_model_that_needs_its_own_code_is_refused_unless_the_config_trusts_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    source = poisoned(tiny_model, tmp_path / "unknown", model_type="poisoned")
    with pytest.raises(ModelError, match="not a usable model"):
        import_model(ImportModelConfig(uri=str(source)), base_model=tmp_path / "base")
    assert not (source / "ran").exists()


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("AWS_SECRET_ACCESS_KEY", "JUDGE_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, PLANTED)
    return PLANTED


def test_secrets_do_not_reach_logs_errors_or_tracebacks(
    planted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = logging.getLogger().handlers[:]
    try:
        configure_logging()
        logging.getLogger("equilibrate_core").info("signed with %s", planted)
        try:
            raise ValueError(f"bad key {planted}")
        except ValueError as error:
            logging.getLogger("equilibrate_core").exception("failed")
            report_error(error)
        report_error(StorageError(f"s3://b/k: refused {planted}"))
    finally:
        logging.getLogger().handlers[:] = handlers
    shown = capsys.readouterr()
    assert planted not in shown.out + shown.err
    assert shown.err.count("***") == 4  # the log line, its traceback, the traceback, the error
    assert "bad key ***" in shown.err and "refused ***" in shown.err


def test_secrets_that_tasks_print_do_not_reach_the_log_of_a_local_run(
    planted: str, tmp_path: Path
) -> None:
    console = RunConsole(tmp_path / "run.log")
    console.write(f"a library's own words: {planted}\n    error: key {planted} refused\n")
    console.finish()
    assert planted not in (tmp_path / "run.log").read_text()
    assert console.task_errors == ["key *** refused"]


def test_ordinary_variables_are_not_taken_for_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "disabled")
    monkeypatch.setenv("MAX_TOKENS", "1234567")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    assert not {"disabled", "1234567", "abc"} & set(secret_values())
    assert redact("abc disabled") == "abc disabled"


def test_a_compiled_pipeline_holds_names_of_secrets_and_no_value(planted: str) -> None:
    values = yaml.safe_load((ROOT / "pipelines/configs/laptop.yaml").read_text())
    values["kubeflow"]["s3_secret"] = "equilibrate-s3"
    endpoint = {"backend": "endpoint", "endpoint_url": "https://judge.example/v1"}
    endpoint |= {"endpoint_model": "judge", "api_key_env": "JUDGE_API_KEY"}
    values["classify_prompts"]["judge"] = endpoint
    config = parse_config(values, RunConfig, "test")
    text = compile_run(config).text
    assert planted not in text
    assert "equilibrate-s3" in text and "JUDGE_API_KEY" in text


def test_no_file_of_the_repository_looks_like_a_credential() -> None:
    shapes = re.compile(
        rb"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|hf_[A-Za-z]{34}|sk-[A-Za-z0-9]{40}"
    )
    folders = ("equilibrate_core", "components", "pipelines", "manifests", "images", "docs")
    for path in (p for f in folders for p in (ROOT / f).rglob("*") if p.is_file()):
        assert not shapes.search(path.read_bytes()), path
