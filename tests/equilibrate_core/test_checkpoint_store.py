"""Stores of checkpoints: folders appear whole or not at all."""

from pathlib import Path

from equilibrate_core.checkpoint_store import open_store

pytest_plugins = ["tests.s3_store"]


def test_s3_folders_are_whole_or_absent_and_go_manifest_first(bucket: str, tmp_path: Path) -> None:
    store = open_store(f"{bucket}/some/prefix")
    store.put_if_absent("lease.json", b"{}")
    draft = store.draft("step-1")
    (draft / "engine").mkdir()
    (draft / "engine" / "weights").write_bytes(b"1" * 1000)
    (draft / "manifest.json").write_text("{}")
    store.publish(draft, "step-1")
    assert not draft.exists()
    assert store.folders() == ["step-1"]
    with store.fetched("step-1") as folder:
        assert (folder / "engine" / "weights").read_bytes() == b"1" * 1000
    store.remove("step-1")
    assert store.folders() == []
