"""Transfers through a proxy that spoils exchanges: they end right, or with one clear line."""

import base64
import hashlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.retries.standard import ExponentialBackoff

from equilibrate_core import s3, s3_download, s3_retries, s3_upload
from equilibrate_core.errors import StorageError
from equilibrate_core.json_objects import read_json_object, write_json_object
from equilibrate_core.s3_client import connect
from equilibrate_core.s3_uris import parse_uri
from pipelines.object_store import ObjectStore
from tests.fault_proxy import FAULTS, FaultProxy, fault_proxy

pytest_plugins = ["tests.s3_store"]

RANGE = 2**20
PART = 5 * 2**20
"""The smallest part that S3 takes."""
BRISK = tuple(fault for fault in FAULTS if fault != "timeout")
SEED = 20_250_211


def store() -> ObjectStore:
    """The server behind `bucket`; imported late, for pytest must load the plugin first."""
    from tests.s3_store import shared_store

    return shared_store()


@pytest.fixture
def proxy(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The store behind a proxy; small parts, short waits."""
    with fault_proxy(store().endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", running.url)
        monkeypatch.setenv("EQUILIBRATE_S3_TIMEOUT_S", "0.7")
        monkeypatch.setattr(s3_upload, "PART_BYTES", PART)
        monkeypatch.setattr(s3_download, "RANGE_BYTES", RANGE)
        monkeypatch.setattr(s3_retries, "FIRST_DELAY_S", 0.01)
        monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.01)
        yield running


def once(fault: str, method: str, part: str = "") -> "Once":
    return Once(fault, method, part)


class Once:
    """A fault for the first exchange of a kind."""

    def __init__(self, fault: str, method: str, part: str) -> None:
        self.fault, self.method, self.part, self.used = fault, method, part, False

    def __call__(self, method: str, path: str) -> str:
        if self.used or method != self.method or self.part not in path:
            return ""
        self.used = True
        return self.fault


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def file_of(folder: Path, size: int, seed: int = 0) -> Path:
    path = folder / f"file-{size}-{seed}"
    path.write_bytes(content(size, seed))
    return path


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("size", [1000, PART + 17])
def test_one_fault_on_the_way_up_changes_nothing(
    proxy: FaultProxy, bucket: str, tmp_path: Path, fault: str, size: int
) -> None:
    proxy.choose = once(fault, "PUT")
    s3.upload_file(file_of(tmp_path, size), f"{bucket}/f")
    assert proxy.done[fault] == (1 if fault not in ("broken", "truncated") else proxy.done[fault])
    target = parse_uri(f"{bucket}/f")
    stored = connect().get_object(Bucket=target.bucket, Key=target.key)["Body"].read()
    assert stored == content(size)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("size", [1000, 3 * RANGE + 17])
def test_one_fault_on_the_way_down_changes_nothing(
    proxy: FaultProxy, bucket: str, tmp_path: Path, fault: str, size: int
) -> None:
    s3.upload_file(file_of(tmp_path, size), f"{bucket}/f")
    proxy.choose = once(fault, "GET", "/f")
    s3.download_file(f"{bucket}/f", tmp_path / "back")
    assert proxy.done[fault] == 1
    assert (tmp_path / "back").read_bytes() == content(size)
    assert not list(tmp_path.glob(".*"))


def test_object_of_others_is_verified_by_its_etag(
    proxy: FaultProxy, bucket: str, tmp_path: Path
) -> None:
    target = parse_uri(f"{bucket}/theirs")
    connect().put_object(Bucket=target.bucket, Key=target.key, Body=content(5000))
    proxy.choose = once("corrupted", "GET")
    s3.download_file(f"{bucket}/theirs", tmp_path / "back")
    assert proxy.done["corrupted"] == 1
    assert (tmp_path / "back").read_bytes() == content(5000)


@pytest.mark.parametrize("fate", ["completed", "aborted"])
@pytest.mark.parametrize("when", ["before its parts are listed", "after", "before its completion"])
def test_an_upload_that_somebody_else_ends_is_done_or_begun_anew(
    proxy: FaultProxy,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fate: str,
    when: str,
) -> None:
    path, target, client = file_of(tmp_path, PART + 17), parse_uri(f"{bucket}/ours"), connect()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    theirs = s3_upload._begin_upload(client, target, sha256)
    step = "_complete" if when == "before its completion" else "_parts_there"
    own = getattr(s3_upload, step)

    def end(*arguments: Any) -> Any:
        monkeypatch.setattr(s3_upload, step, own)
        listed = own(*arguments) if when == "after" else None
        if fate == "aborted":
            s3_upload.abort_uploads(client, target)
        else:
            parts = s3_upload._upload_parts(client, path, target, theirs, PART)
            s3_upload._complete(client, target, theirs, parts)
        return listed or own(*arguments)

    monkeypatch.setattr(s3_upload, step, end)
    whole = hashlib.sha256()
    for part in (path.read_bytes()[:PART], path.read_bytes()[PART:]):
        whole.update(hashlib.sha256(part).digest())
    expected = f"{base64.b64encode(whole.digest()).decode()}-2"
    assert s3_upload.upload_object(client, path, target, sha256) == expected
    s3.download_file(f"{bucket}/ours", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


def put_in_parts(bucket: str, parts: list[bytes], **options: Any) -> None:
    """An object as other tools write it: in parts, without a digest of the whole."""
    client, target = connect(), parse_uri(f"{bucket}/theirs")
    where = {"Bucket": target.bucket, "Key": target.key}
    upload = client.create_multipart_upload(**where, **options)["UploadId"]
    done = []
    for number, part in enumerate(parts, 1):
        reply = client.upload_part(**where, UploadId=upload, PartNumber=number, Body=part)
        done.append({"PartNumber": number, "ETag": reply["ETag"]})
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": done})


@pytest.mark.parametrize("sizes", [(PART, PART, 17), (PART, PART + 1, 17), (PART,)])
def test_an_upload_of_others_in_parts_is_verified(
    proxy: FaultProxy, bucket: str, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    parts = [content(size, seed) for seed, size in enumerate(sizes)]
    put_in_parts(bucket, parts)
    proxy.choose = once("corrupted", "GET", "/theirs")
    s3.download_file(f"{bucket}/theirs", tmp_path / "back")
    assert proxy.done["corrupted"] == 1
    assert (tmp_path / "back").read_bytes() == b"".join(parts)


def test_an_upload_in_parts_that_stays_altered_is_refused(
    proxy: FaultProxy, bucket: str, tmp_path: Path
) -> None:
    put_in_parts(bucket, [content(PART), content(17, 1)])
    proxy.choose = lambda method, path: "corrupted" if method == "GET" else ""
    with pytest.raises(StorageError, match="altered"):
        s3.download_file(f"{bucket}/theirs", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_two_hundred_faults_and_no_wrong_byte(
    proxy: FaultProxy, bucket: str, tmp_path: Path
) -> None:
    draw = random.Random(SEED)

    def some(method: str, path: str) -> str:
        enough = sum(proxy.done.values()) >= 200
        return "" if enough or draw.random() > 0.3 else draw.choice((*FAULTS, *BRISK))

    proxy.choose = some
    finished, failures = 0, []
    while sum(proxy.done.values()) < 200:
        size = draw.choice([0, 1, 1000, 2000, RANGE, RANGE + 1, 2 * RANGE, PART + 1])
        source, back = file_of(tmp_path, size, finished), tmp_path / "back"
        try:
            s3.upload_file(source, f"{bucket}/f{finished}")
            s3.download_file(f"{bucket}/f{finished}", back)
        except StorageError as error:
            assert "\n" not in str(error)
            assert not back.exists()
            failures.append(str(error))
            continue
        assert back.read_bytes() == source.read_bytes()
        back.unlink()
        finished += 1
    assert sum(proxy.done.values()) >= 200
    assert set(proxy.done) == set(FAULTS)
    assert finished >= 20 and len(failures) <= finished // 4, failures


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "cannot serve the request now"),
        ("503", "cannot serve the request now"),
        ("expired", "session token has expired.*renew AWS_SESSION_TOKEN"),
        ("corrupted", "altered"),
        ("reset", "cannot reach the object store|broke off"),
        ("truncated", "broke off|Incomplete|Connection"),
        ("timeout", "[Tt]imed? ?out|cannot reach"),
    ],
)
def test_lasting_fault_ends_with_one_line_and_no_file(
    proxy: FaultProxy,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    words: str,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr(s3_retries, "ROUNDS", 2)
    s3.upload_file(file_of(tmp_path, 1000), f"{bucket}/f")
    proxy.choose = lambda method, path: fault if method == "GET" and "/f" in path else ""
    with pytest.raises(StorageError, match=words) as caught:
        s3.download_file(f"{bucket}/f", tmp_path / "back")
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{bucket}/f: ")
    assert not (tmp_path / "back").exists()


def test_interrupted_upload_goes_on_from_the_parts_that_arrived(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_upload, "WORKERS", 1)
    monkeypatch.setenv("EQUILIBRATE_S3_TIMEOUT_S", "20")  # a slow answer is no fault here
    path = file_of(tmp_path, 4 * PART)
    proxy.choose = lambda method, path: "expired" if "partNumber=3" in path else ""
    with pytest.raises(StorageError, match="expired"):
        s3.upload_file(path, f"{bucket}/f")
    proxy.choose = lambda method, path: ""
    proxy.requests.clear()
    s3.upload_file(path, f"{bucket}/f")
    sent = [p for method, p in proxy.requests if method == "PUT"]
    assert len(sent) == 2 and all(f"partNumber={n}" in p for n, p in zip((3, 4), sent, strict=True))
    s3.download_file(f"{bucket}/f", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content(4 * PART)


def test_parts_of_other_content_are_not_taken(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_upload, "WORKERS", 1)
    proxy.choose = lambda method, path: "expired" if "partNumber=3" in path else ""
    with pytest.raises(StorageError, match="expired"):
        s3.upload_file(file_of(tmp_path, 3 * PART, seed=1), f"{bucket}/f")
    proxy.choose = lambda method, path: ""
    s3.upload_file(file_of(tmp_path, 3 * PART, seed=2), f"{bucket}/f")
    s3.download_file(f"{bucket}/f", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content(3 * PART, seed=2)


def test_object_replaced_during_a_download_is_not_mixed(
    proxy: FaultProxy, bucket: str, tmp_path: Path
) -> None:
    s3.upload_file(file_of(tmp_path, 4 * RANGE, seed=1), f"{bucket}/f")
    replaced = threading.Event()
    target = parse_uri(f"{bucket}/f")
    direct = connect(store().environment)

    def replace(method: str, path: str) -> str:
        if method == "GET" and not replaced.is_set():
            replaced.set()
            direct.put_object(Bucket=target.bucket, Key=target.key, Body=content(4 * RANGE, seed=2))
        return ""

    proxy.choose = replace
    with pytest.raises(StorageError, match="replaced meanwhile"):
        s3.download_file(f"{bucket}/f", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_records_folders_and_leases_survive_faults_too(
    proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """With no tries of botocore's own: those are rationed over all requests of a client."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for method in ("PUT", "GET", "HEAD", "DELETE"):
        uri = f"{bucket}/{fault}/{method}"
        proxy.choose = once(fault, method)
        assert (tag := s3.put_if_absent(f"{uri}/a", b"1"))
        assert s3.replace_if_match(f"{uri}/a", b"2", tag)
        write_json_object(f"{uri}/b.json", {"n": 1})
        write_json_object(f"{uri}/b.json", {"n": 2})
        assert read_json_object(f"{uri}/b.json") == {"n": 2}
        assert s3.content_digest(uri).startswith("etags:")
        s3.clear_folder(uri)
        assert read_json_object(f"{uri}/b.json") is None
    assert proxy.done[fault]
