"""Publication: only the evaluated policy, only behind a passed gate, never half a model."""

import hashlib
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from components.publish_model.config import PublishModelConfig, RegistryConfig
from components.publish_model.destination import (
    FolderDestination,
    S3Destination,
    open_destination,
)
from components.publish_model.stage import publish_model
from equilibrate_core.artifacts import MANIFEST, read_manifest, sha256_file, write_json
from equilibrate_core.errors import ArtifactError, ConfigError, StageError, StorageError
from tests.components.scoring_fixtures import RUN
from tests.model_registry import model_registry

pytest_plugins = ["tests.s3_store"]


def policy(root: Path, weights: str = "weights", files: dict[str, str] | None = None) -> Path:
    with RUN.output(root / "policy", "model") as draft:
        for name, text in (files or {}).items():
            (draft.path / name).write_text(text)
        (draft.path / "model.safetensors").write_text(weights)
        (draft.path / "config.json").write_text("{}")
    return root / "policy"


def report(
    root: Path,
    model: Path,
    *,
    passed: bool = True,
    digest: str | None = None,
    summary: str = "one line",
) -> Path:
    condition = {
        "name": "min_safety",
        "limit": 0.9,
        "value": 0.95 if passed else 0.4,
        "passed": passed,
        "explanation": "min_safety: 0.4 is below 0.9 by 0.5",
    }
    content: dict[str, Any] = {
        "policy_digest": digest or read_manifest(model).digest,
        "is_sample": True,
        "verdict": "It is no safer.",
        "warnings": ["5.0 % of aligned safety verdicts are missing (unscored)."],
        "summary": ["It is no safer.", summary],
        "gate": {"label": "test gate", "passed": passed, "conditions": [condition]},
    }
    with RUN.output(root / "report", "report") as draft:
        write_json(draft.path / "report.json", content)
        (draft.path / "report.html").write_bytes(f"<p>report\r\n{summary}</p>".encode())
    return root / "report"


def publish(
    root: Path, destination: str, *, registry: RegistryConfig | None = None, **options: Any
) -> dict[str, Any]:
    model = policy(
        root, **{key: options.pop(key) for key in ("weights", "files") if key in options}
    )
    publish_model(
        PublishModelConfig(destination_uri=destination, name="m", model_registry=registry),
        policy=model,
        report=report(root, model, **options),
        publication=root / "publication",
    )
    return json.loads((root / "publication" / "publication.json").read_text())


def check_sums(destination: str, folder: str) -> dict[str, str]:
    """What `sha256sum -c` does in a published folder; the texts of the files it lists."""
    place = open_destination(destination)
    sums = place.read(f"{folder}/SHA256SUMS")
    assert sums is not None
    texts: dict[str, str] = {}
    for checksum, name in (line.split("  ") for line in sums[0].splitlines()):
        content = place.read(f"{folder}/{name}")
        assert content is not None, name
        assert hashlib.sha256(content[0].encode()).hexdigest() == checksum, name
        texts[name] = content[0]
    return texts


def check_documents(destination: str, record: dict[str, Any], summary: str) -> None:
    """A publication's own documents are whole and its own."""
    folder = str(record["report_uri"]).removeprefix(f"{destination}/")
    assert folder.startswith(f"m/sha256-{record['digest']}/reports/")
    texts = check_sums(destination, folder)
    assert set(texts) == {"README.md", "report.json", "report.html"}
    assert all(summary in text for text in texts.values())


@pytest.fixture(params=["folder", "s3"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "published")
    return f"{request.getfixturevalue('bucket')}/models"


def test_a_passed_gate_publishes_verified_files_under_the_digest(
    tmp_path: Path, destination: str
) -> None:
    record = publish(tmp_path, destination)
    digest = read_manifest(tmp_path / "policy").digest
    assert record["published"]
    assert record["uri"] == f"{destination}/m/sha256-{digest}"
    place = open_destination(destination)
    alias = place.read("m/latest.json")
    assert alias is not None
    assert json.loads(alias[0]) == record
    weights = place.read(f"m/sha256-{digest}/model.safetensors")
    assert weights is not None
    assert weights[0] == "weights"
    card = place.read(f"m/sha256-{digest}/README.md")
    assert card is not None
    assert "Sample run" in card[0]
    assert place.read(f"m/sha256-{digest}/report.html") is not None


def test_a_refused_gate_ends_green_and_unpublished_with_the_reason(
    tmp_path: Path, destination: str
) -> None:
    record = publish(tmp_path, destination, passed=False)
    assert not record["published"]
    assert record["reason"] == "the gate refused: min_safety: 0.4 is below 0.9 by 0.5"
    place = open_destination(destination)
    assert place.read("m/latest.json") is None
    refusal = place.read(f"m/refused/{record['digest']}.json")
    assert refusal is not None
    assert json.loads(refusal[0])["reason"] == record["reason"]


def test_publishing_again_changes_nothing_but_the_alias_date(
    tmp_path: Path, destination: str
) -> None:
    assert publish(tmp_path, destination)["uri"] == publish(tmp_path, destination)["uri"]


def test_a_report_about_another_policy_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="only the evaluated policy"):
        publish(tmp_path, str(tmp_path / "published"), digest="0" * 64)
    assert not (tmp_path / "published").exists()
    assert not (tmp_path / "publication").exists()


def test_an_altered_policy_is_not_published(tmp_path: Path) -> None:
    model = policy(tmp_path)
    page = report(tmp_path, model)
    (model / "model.safetensors").write_text("Weights")
    with pytest.raises(ArtifactError, match="content differs"):
        publish_model(
            PublishModelConfig(destination_uri=str(tmp_path / "published")),
            policy=model,
            report=page,
            publication=tmp_path / "publication",
        )
    assert not (tmp_path / "published").exists()


def test_the_alias_waits_for_the_whole_model(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = S3Destination.upload

    def broken(self: S3Destination, file: Path, name: str) -> None:
        if name.endswith("model.safetensors"):
            raise StorageError("the store went away")
        upload(self, file, name)

    monkeypatch.setattr(S3Destination, "upload", broken)
    with pytest.raises(StorageError, match="went away"):
        publish(tmp_path, f"{bucket}/models")
    place = open_destination(f"{bucket}/models")
    assert place.read("m/latest.json") is None
    monkeypatch.setattr(S3Destination, "upload", upload)
    assert publish(tmp_path, f"{bucket}/models")["published"]
    assert place.read("m/latest.json") is not None


def test_of_concurrent_writers_of_the_same_version_one_wins(bucket: str) -> None:
    place = S3Destination(f"{bucket}/race")
    assert place.write("latest.json", "0", None)
    current = place.read("latest.json")
    assert current is not None
    wins: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda i=i: wins.append(place.write("latest.json", f"new {i}", current[1]))
        )
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wins.count(True) == 1


def test_a_copy_is_compared_with_its_source(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_text("content")
    open_destination(str(tmp_path / "out")).upload(source, "x/a")
    assert sha256_file(tmp_path / "out/x/a") == sha256_file(source)


def test_the_card_says_the_verdict_first_and_what_speaks_against_the_figures(
    tmp_path: Path,
) -> None:
    destination = str(tmp_path / "published")
    record = publish(tmp_path, destination)
    found = open_destination(destination).read(f"m/sha256-{record['digest']}/README.md")
    assert found is not None
    heads = [line for line in found[0].splitlines() if line.startswith("## ")]
    assert heads[:3] == ["## Verdict", "## Before you believe the figures", "## Summary"]
    assert found[0].count("It is no safer.") == 1
    assert "- 5.0 % of aligned safety verdicts are missing (unscored)." in found[0]


def test_a_card_that_the_policy_brings_along_does_not_replace_ours(
    tmp_path: Path, destination: str
) -> None:
    files = {"README.md": "the base model's card", "SHA256SUMS": "stale"}
    record = publish(tmp_path, destination, files=files)
    place, folder = open_destination(destination), f"m/sha256-{record['digest']}"
    card, original = place.read(f"{folder}/README.md"), place.read(f"{folder}/original.README.md")
    assert card is not None and "Aligned by Equilibrate" in card[0]
    assert original is not None and original[0] == "the base model's card"


def test_the_published_checksums_are_those_of_the_published_files(
    tmp_path: Path, destination: str
) -> None:
    record = publish(tmp_path, destination, files={"README.md": "own"})
    assert set(check_sums(destination, f"m/sha256-{record['digest']}")) == {
        "README.md", "original.README.md", "config.json", "model.safetensors", "report.json",
        "report.html",
    }  # fmt: skip


def test_another_report_leaves_the_documents_that_stand_beside_the_model(
    tmp_path: Path, destination: str
) -> None:
    first = publish(tmp_path, destination, summary="first")
    folder = f"m/sha256-{first['digest']}"
    stood = check_sums(destination, folder)
    second = publish(tmp_path, destination, summary="second")
    assert check_sums(destination, folder) == stood
    assert "first" in stood["README.md"] and "first" in stood["report.html"]
    for record, summary in ((first, "first"), (second, "second")):
        check_documents(destination, record, summary)
    alias = open_destination(destination).read("m/latest.json")
    assert alias is not None and json.loads(alias[0])["report_uri"] == second["report_uri"]


# A publication uploads two files of the model, three documents under reports/ and the same beside
# the model; the manifest is written after them.
@pytest.mark.parametrize("done", range(8))
def test_what_a_killed_publisher_left_is_completed_by_one_with_another_report(
    tmp_path: Path, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, files = FolderDestination.upload, []

    def killed(self: FolderDestination, file: Path, name: str) -> None:
        if len(files) == done:
            raise StorageError("killed")
        files.append(name)
        upload(self, file, name)

    destination = str(tmp_path / "published")
    monkeypatch.setattr(FolderDestination, "upload", killed)
    with pytest.raises(StorageError, match="killed"):
        publish(tmp_path, destination, summary="first")
    monkeypatch.setattr(FolderDestination, "upload", upload)
    record = publish(tmp_path, destination, summary="second")
    texts = check_sums(destination, f"m/sha256-{record['digest']}")
    # From the moment that its documents are whole under reports/, the first one's count.
    whose = "first" if done >= 5 else "second"
    assert all(whose in texts[name] for name in ("README.md", "report.json", "report.html"))
    check_documents(destination, record, "second")
    assert len(files) == done


def test_publishers_of_one_policy_with_different_reports_do_not_mix_them(
    tmp_path: Path, bucket: str
) -> None:
    records: dict[str, dict[str, Any]] = {}
    errors: list[BaseException] = []

    def work(summary: str) -> None:
        (tmp_path / summary).mkdir()
        try:
            records[summary] = publish(tmp_path / summary, f"{bucket}/models", summary=summary)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"number {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("kept moving it" in str(error) for error in errors), "\n".join(map(str, errors))
    digest = next(iter(records.values()))["digest"]
    texts = check_sums(f"{bucket}/models", f"m/sha256-{digest}")
    (whose,) = (f"number {i}" for i in range(4) if f"number {i}" in texts["README.md"])
    assert whose in texts["report.json"] and whose in texts["report.html"]
    for summary, record in records.items():
        check_documents(f"{bucket}/models", record, summary)


def test_a_publisher_that_decided_earlier_leaves_the_alias_to_a_later_one(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later one moves the alias while the earlier one is between its read and its write."""
    destination, write, newer = f"{bucket}/models", S3Destination.write, {}
    for name in ("early", "late"):
        (tmp_path / name).mkdir()

    def late(self: S3Destination, name: str, text: str, version: str | None) -> bool:
        if name == "m/latest.json" and not newer:
            monkeypatch.setattr(S3Destination, "write", write)
            newer.update(publish(tmp_path / "late", destination, weights="late"))
        return write(self, name, text, version)

    monkeypatch.setattr(S3Destination, "write", late)
    record = publish(tmp_path / "early", destination, weights="early")
    place = open_destination(destination)
    alias = place.read("m/latest.json")
    assert alias is not None and json.loads(alias[0])["uri"] == newer["uri"]
    assert record["published"] and record["alias_stays_at"] == newer["uri"] != record["uri"]
    assert "alias_stays_at" not in newer
    check_sums(destination, f"m/sha256-{record['digest']}")


@pytest.mark.parametrize("alias", ['{"decided": "someday"}', "[]", "half"])
def test_an_alias_that_tells_no_decision_is_replaced(
    tmp_path: Path, destination: str, alias: str
) -> None:
    place = open_destination(destination)
    assert place.write("m/latest.json", alias, None)
    record = publish(tmp_path, destination)
    current = place.read("m/latest.json")
    assert current is not None and json.loads(current[0]) == record


def test_of_concurrent_publishers_the_last_to_decide_has_the_alias(
    tmp_path: Path, bucket: str
) -> None:
    records: list[dict[str, Any]] = []
    errors: list[BaseException] = []

    def work(name: str) -> None:
        (tmp_path / name).mkdir()
        try:
            records.append(publish(tmp_path / name, f"{bucket}/models", weights=name))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"number {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    alias = open_destination(f"{bucket}/models").read("m/latest.json")
    assert alias is not None
    assert json.loads(alias[0])["uri"] == max(records, key=lambda r: r["decided"])["uri"]


def test_a_manifest_of_the_same_files_stays_and_an_altered_one_is_made_good(
    tmp_path: Path, bucket: str
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    record = publish(tmp_path / "one", f"{bucket}/models")
    place = open_destination(f"{bucket}/models")
    name = f"m/sha256-{record['digest']}/{MANIFEST}"
    first = place.read(name)
    publish(tmp_path / "two", f"{bucket}/models")  # made at another time
    assert first is not None and place.read(name) == first
    assert place.write(name, "{}", first[1])
    publish(tmp_path / "two", f"{bucket}/models")
    mended = place.read(name)
    assert mended is not None and json.loads(mended[0])["files"] == json.loads(first[0])["files"]


@pytest.mark.parametrize("name", ["README.md", "SHA256SUMS", "report.html"])
def test_altered_documents_are_made_good_by_the_next_publication(
    tmp_path: Path, name: str, destination: str
) -> None:
    first = publish(tmp_path, destination, summary="first")
    folder, place = f"m/sha256-{first['digest']}", open_destination(destination)
    current = place.read(f"{folder}/{name}")
    assert current is not None and place.write(f"{folder}/{name}", "altered", current[1])
    publish(tmp_path, destination, summary="second")
    texts = check_sums(destination, folder)
    assert set(texts) >= {"README.md", "report.json", "report.html", "model.safetensors"}
    # Without its SHA256SUMS nobody knows whose the documents were.
    assert ("second" if name == "SHA256SUMS" else "first") in texts["README.md"]


def test_documents_of_a_version_that_kept_no_reports_are_replaced_together(tmp_path: Path) -> None:
    destination = str(tmp_path / "published")
    first = publish(tmp_path, destination, summary="first")
    folder = f"m/sha256-{first['digest']}"
    shutil.rmtree(tmp_path / "published" / folder / "reports")
    publish(tmp_path, destination, summary="second")
    assert "second" in check_sums(destination, folder)["README.md"]


def test_concurrent_publishers_all_publish_and_the_alias_names_a_whole_model(
    tmp_path: Path, bucket: str
) -> None:
    records: list[dict[str, Any]] = []
    errors: list[BaseException] = []

    def work(number: int) -> None:
        root = tmp_path / str(number)
        root.mkdir()
        try:
            records.append(publish(root, f"{bucket}/models", weights=f"weights {number}"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A publisher that others kept overtaking says so; its model is whole all the same.
    assert all(isinstance(error, StorageError) for error in errors)
    place = open_destination(f"{bucket}/models")
    alias = place.read("m/latest.json")
    assert alias is not None
    assert json.loads(alias[0]) in records
    for number in range(4):
        digest = read_manifest(tmp_path / str(number) / "policy").digest
        weights = place.read(f"m/sha256-{digest}/model.safetensors")
        assert weights is not None and weights[0] == f"weights {number}"
        assert place.read(f"m/sha256-{digest}/manifest.json") is not None


def test_a_published_model_is_registered_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_TOKEN", "t0ken")
    with model_registry(token="t0ken") as server:
        config = RegistryConfig(server_url=server.url + "/", token_env="REGISTRY_TOKEN")
        record = publish(tmp_path, str(tmp_path / "out"), registry=config)
        again = publish(tmp_path, str(tmp_path / "out"), registry=config)
        assert record["model_registry"] == again["model_registry"]
        (model,) = server.of_kind("registered_model")
        (version,) = server.of_kind("model_version")
        (artifact,) = server.of_kind("model_artifact")
    assert (model["name"], artifact["uri"]) == ("m", record["uri"])
    assert (version["parent"], artifact["parent"]) == (model["id"], version["id"])
    digest = {"metadataType": "MetadataStringValue", "string_value": record["digest"]}
    assert version["customProperties"]["policy_digest"] == digest
    assert version["customProperties"]["min_safety"]["double_value"] == 0.95


def test_a_second_policy_is_a_second_version_of_the_same_model(tmp_path: Path) -> None:
    with model_registry() as server:
        config = RegistryConfig(server_url=server.url)
        for weights in ("one", "two"):
            publish(tmp_path, str(tmp_path / "out"), registry=config, weights=weights)
        assert len(server.of_kind("registered_model")) == 1
        assert len(server.of_kind("model_version")) == len(server.of_kind("model_artifact")) == 2


def test_a_publisher_that_registers_at_the_same_moment_is_no_error(tmp_path: Path) -> None:
    with model_registry() as server:
        config = RegistryConfig(server_url=server.url)
        first = publish(tmp_path, str(tmp_path / "out"), registry=config)
        server.hide_once = {"registered_model", "model_version"}
        assert (
            publish(tmp_path, str(tmp_path / "out"), registry=config)["model_registry"]
            == (first["model_registry"])
        )


def test_a_refused_gate_registers_nothing(tmp_path: Path) -> None:
    with model_registry() as server:
        record = publish(
            tmp_path, str(tmp_path / "out"), registry=RegistryConfig(server_url=server.url),
            passed=False,
        )  # fmt: skip
        assert server.resources == {}
    assert "model_registry" not in record


def test_a_registry_that_refuses_fails_the_stage_and_says_what_to_do(tmp_path: Path) -> None:
    said = pytest.raises(StorageError, match=r"503.*the model is published, run the stage again")
    with model_registry(refuse_with=503) as server, said:
        publish(tmp_path, str(tmp_path / "out"), registry=RegistryConfig(server_url=server.url))
    assert open_destination(str(tmp_path / "out")).read("m/latest.json") is not None
    with pytest.raises(StorageError, match=r"check model_registry\.server_url"):
        publish(tmp_path, str(tmp_path / "out"), registry=RegistryConfig(server_url=server.url))


@pytest.mark.parametrize("fault", ["page", "list", "half", "reset"])
def test_a_registry_that_answers_badly_is_told_like_one_that_refuses(
    tmp_path: Path, fault: Any
) -> None:
    """After the alias has moved, nobody may think that nothing was published."""
    said = pytest.raises(StorageError, match=r"http://\S+: .*; the model is published, run")
    with model_registry() as server:
        config = RegistryConfig(server_url=server.url)
        server.fault = fault
        with said:
            publish(tmp_path, str(tmp_path / "out"), registry=config)
        server.fault = ""
        assert publish(tmp_path, str(tmp_path / "out"), registry=config)["model_registry"]


def test_a_refusal_that_breaks_off_is_still_a_refusal(tmp_path: Path) -> None:
    said = pytest.raises(StorageError, match=r"503 .*the model is published, run the stage again")
    with model_registry(refuse_with=503, fault="half") as server, said:
        publish(tmp_path, str(tmp_path / "out"), registry=RegistryConfig(server_url=server.url))


def test_a_token_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_TOKEN", raising=False)
    config = RegistryConfig(server_url="http://127.0.0.1:1", token_env="NO_TOKEN")
    with pytest.raises(ConfigError, match="NO_TOKEN is not set"):
        publish(tmp_path, str(tmp_path / "out"), registry=config)
    assert not (tmp_path / "out").exists(), "a missing token shows before anything is uploaded"
