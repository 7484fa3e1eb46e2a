import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from equilibrate_core import s3
from equilibrate_core.errors import StorageError
from equilibrate_core.s3_client import connect
from equilibrate_core.s3_uris import S3Uri, join_uri, parse_uri, relative_name

pytest_plugins = ["tests.s3_store"]

LISTING = """<?xml version="1.0"?><ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>
<Contents><Key>data/../../evil</Key><Size>4</Size><ETag>"e"</ETag></Contents></ListBucketResult>"""


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "artifact"
    (path / "deep").mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    (path / "deep" / "weights.bin").write_bytes(bytes(range(256)) * 40_000)  # multipart: 10 MB
    (path / "tokenizer.txt").touch()
    return path


def test_uploaded_folder_comes_back_byte_for_byte_and_its_manifest_goes_last(
    bucket, folder, tmp_path
):
    uris = s3.upload_folder(folder, f"{bucket}/models/one")
    assert uris[-1] == f"{bucket}/models/one/manifest.json"
    paths = s3.download_folder(f"{bucket}/models/one", tmp_path / "back")
    names = [path.relative_to(tmp_path / "back").as_posix() for path in paths]
    assert names == ["deep/weights.bin", "manifest.json", "tokenizer.txt"]
    for name, path in zip(names, paths, strict=True):
        assert path.read_bytes() == (folder / name).read_bytes()


def test_listing_keeps_to_the_folder_and_not_to_names_that_begin_alike(bucket):
    for key in ("data/a.txt", "data/b/c.txt", "data2/d.txt"):
        s3.put_if_absent(f"{bucket}/{key}", b"x")
    assert [item.name for item in s3.list_objects(f"{bucket}/data")] == ["a.txt", "b/c.txt"]
    assert [item.name for item in s3.list_objects(f"{bucket}/data/")] == ["a.txt", "b/c.txt"]
    assert [item.name for item in s3.list_objects(f"{bucket}/data/a.txt")] == ["a.txt"]
    assert len(s3.list_objects(bucket)) == 3
    assert s3.exists(f"{bucket}/data/a.txt") and not s3.exists(f"{bucket}/data")


def test_object_altered_in_the_store_is_refused_and_leaves_no_file(bucket, tmp_path):
    target = parse_uri(f"{bucket}/altered")
    connect().put_object(
        Bucket=target.bucket, Key=target.key, Body=b"altered", Metadata={"sha256": "0" * 64}
    )
    with pytest.raises(StorageError, match=r"SHA-256 is .* was altered"):
        s3.download_file(str(target), tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_creating_a_bucket_twice_is_no_error_and_keeps_what_it_holds(bucket):
    s3.put_if_absent(f"{bucket}/kept", b"here before")
    s3.create_bucket(bucket)
    assert s3.read_object(f"{bucket}/kept")[0] == b"here before"


def test_only_one_of_many_writers_creates_an_object(bucket):
    with ThreadPoolExecutor(8) as pool:
        etags = list(pool.map(lambda _: s3.put_if_absent(f"{bucket}/lock", b"same"), range(8)))
    assert sum(etag is not None for etag in etags) == 1


def test_replace_needs_the_etag_that_was_read(bucket):
    uri = f"{bucket}/pointer"
    first = s3.put_if_absent(uri, b"one")
    assert first is not None
    second = s3.replace_if_match(uri, b"two", first)
    assert s3.read_object(uri) == (b"two", second)
    assert s3.replace_if_match(uri, b"three", first) is None
    assert s3.replace_if_match(f"{bucket}/absent", b"x", first) is None
    assert s3.read_object(uri)[0] == b"two"


def test_write_repeated_after_a_lost_reply_is_still_ours(bucket):
    events = connect().meta.events

    def lose_first_reply(attempts, **_):
        return 0 if attempts == 1 else None

    events.register_first("needs-retry.s3.PutObject", lose_first_reply)
    try:
        assert s3.put_if_absent(f"{bucket}/mine", b"x") is not None
    finally:
        events.unregister("needs-retry.s3.PutObject", lose_first_reply)
    assert s3.put_if_absent(f"{bucket}/mine", b"x") is None


def test_content_digest_follows_content_and_nothing_else(bucket):
    one, two = f"{bucket}/set/one", f"{bucket}/set/two"
    s3.put_if_absent(one, b"1")
    s3.put_if_absent(two, b"2")
    before = s3.content_digest(f"{bucket}/set"), s3.content_digest(one)
    etag = s3.read_object(two)[1]
    s3.replace_if_match(two, b"2", etag)
    assert (s3.content_digest(f"{bucket}/set"), s3.content_digest(one)) == before
    s3.replace_if_match(two, b"3", etag)
    assert s3.content_digest(f"{bucket}/set") != before[0]
    assert s3.content_digest(one) == before[1]


def test_content_digest_of_a_versioned_object_is_its_version(bucket):
    name = parse_uri(bucket).bucket
    connect().put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    version = connect().put_object(Bucket=name, Key="x", Body=b"1")["VersionId"]
    assert s3.content_digest(f"{bucket}/x") == f"version:{version}"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "nobody", "wrong access key.*AWS_ACCESS_KEY_ID"),
        ("AWS_ACCESS_KEY_ID", "nobody", "InvalidAccessKeyId"),
        ("AWS_SECRET_ACCESS_KEY", "guessed", "wrong secret.*AWS_SECRET_ACCESS_KEY"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9", "cannot reach .*AWS_ENDPOINT_URL_S3"),
        ("AWS_ENDPOINT_URL_S3", "not a url", "Invalid endpoint.*AWS_ENDPOINT_URL_S3"),
    ],
)
@pytest.mark.parametrize("call", [s3.list_objects, s3.exists, s3.read_object, s3.content_digest])
def test_wrong_settings_give_one_line_that_names_the_mend(
    bucket, monkeypatch, variable, value, words, call
):
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=words) as caught:
        call(f"{bucket}/file")
    assert "\n" not in str(caught.value) and "guessed" not in str(caught.value)
    if "://" in value or variable != "AWS_ENDPOINT_URL_S3":
        assert str(caught.value).startswith(f"{bucket}/file: ")


def test_uploads_with_a_wrong_secret_name_it_too(bucket, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    (tmp_path / "f").write_text("x")
    with pytest.raises(StorageError, match=r"/f: wrong secret.*SignatureDoesNotMatch"):
        s3.upload_file(tmp_path / "f", f"{bucket}/f")


def test_missing_credentials_are_named(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    with pytest.raises(StorageError, match="no credentials; set AWS_ACCESS_KEY_ID"):
        s3.exists(f"{bucket}/x")


def test_absent_buckets_and_objects_are_told_apart(bucket, tmp_path):
    with pytest.raises(StorageError, match="absent-bucket/x: no such bucket"):
        s3.exists("s3://absent-bucket/x")
    with pytest.raises(StorageError, match="/absent: no such object"):
        s3.download_file(f"{bucket}/absent", tmp_path / "f")
    with pytest.raises(StorageError, match="/absent: nothing there"):
        s3.list_objects(f"{bucket}/absent")
    with pytest.raises(StorageError, match="nothing to upload"):
        s3.upload_folder(tmp_path / "absent", f"{bucket}/x")


def test_store_that_lists_keys_outside_the_folder_is_refused(monkeypatch, tmp_path):
    class Hostile(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(LISTING.encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Hostile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        with pytest.raises(StorageError, match="refused: a key must be a plain relative path"):
            s3.download_folder("s3://bucket/data/", tmp_path / "inside")
        server.shutdown()
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize(
    "key", ["a/../b", "a//etc/passwd", "a/./b", "a/", "a/x\x00", "a/x\n", "b/c"]
)
def test_keys_that_leave_their_folder_are_refused(key):
    with pytest.raises(StorageError, match="refused"):
        relative_name("a/", key)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "a/../b"])
def test_joined_names_that_leave_their_folder_are_refused(name):
    with pytest.raises(StorageError, match="refused"):
        join_uri("s3://bucket/folder", name)


def test_uris_are_parsed_and_joined():
    assert parse_uri("s3://bucket/a/b") == S3Uri("bucket", "a/b")
    assert parse_uri("s3://bucket") == S3Uri("bucket", "")
    assert str(parse_uri("s3://bucket/a/")) == "s3://bucket/a/"
    assert join_uri("s3://bucket/a/", "b/c") == "s3://bucket/a/b/c"
    assert relative_name("a/", "a/b/c") == "b/c"


@pytest.mark.parametrize(
    "uri",
    ["bucket/a", "s3://", "s3:///a", "s3://Upper/a", "s3://b/a", "s3://bucket/../a", "http://x/y"],
)
def test_unsound_uris_are_refused(uri):
    with pytest.raises(StorageError):
        parse_uri(uri)
