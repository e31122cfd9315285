"""Sources and prepared folders at URLs."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from data_pipelines.prepare import prepare_folder, remote

from .cities import event_table, write
from .test_run import KEY, content


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[fsspec.AbstractFileSystem]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


def test_a_url_gives_what_a_path_gives(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    table = event_table()
    write(table.slice(0, 200), tmp_path / "in" / "events" / "one")
    write(table.slice(200), tmp_path / "in" / "events" / "two")
    local = prepare_folder(tmp_path / "in", "tables", tmp_path / "out", key=KEY)
    memory.put(str(tmp_path / "in"), "/bucket/in", recursive=True)

    result = prepare_folder("memory://bucket/in", "tables", "memory://bucket/out", key=KEY)
    found = {name.removeprefix("/bucket/out/"): memory.cat_file(name) for name in memory.find("/bucket/out")}
    assert found == content(tmp_path / "out")
    assert not result.already_prepared
    assert result.manifest == local.manifest
    assert result.location == "memory://bucket/out"
    assert not list((tmp_path / "cache" / "spacetime-gr").iterdir())

    assert prepare_folder("memory://bucket/in", "tables", "memory://bucket/out", key=KEY).already_prepared
    from_file_url = (tmp_path / "in").as_uri()
    assert prepare_folder(from_file_url, "tables", "memory://bucket/out/", key=KEY).already_prepared
    with pytest.raises(ValueError, match=r"memory://bucket/out was prepared .*--overwrite"):
        prepare_folder("memory://bucket/in", "tables", "memory://bucket/out", key="other")
    memory.pipe_file("/bucket/out/train/part-00099.parquet", b"old")
    prepare_folder("memory://bucket/in", "tables", "memory://bucket/out", key="other", overwrite=True)
    assert set(memory.find("/bucket/out")) == {f"/bucket/out/{name}" for name in found}
    with pytest.raises(ValueError, match=r"memory://bucket/in exists and is not a prepared folder"):
        prepare_folder("memory://bucket/in", "tables", "memory://bucket/in", key=KEY)


def test_the_manifest_comes_last_and_goes_first(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("manifest.json", "pois.parquet", "train/part-0.parquet", "train/manifest.json"):
        (tmp_path / name).write_text(name)

    class Recorder:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def __getattr__(self, name: str) -> object:
            def call(*arguments: object, **options: object) -> object:
                if name in ("pipe_file", "rm_file", "rm", "put_file"):
                    self.calls.append(f"{name} {arguments[0 if name == 'pipe_file' else -1]}")
                return getattr(memory, name)(*arguments, **options)

            return call

    remote.publish(tmp_path, "memory://b/out", lambda step: None)
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "file_system", lambda url: (recorder, "/b/out"))
        remote.publish(tmp_path, "memory://b/out", lambda step: None)
    assert recorder.calls[0] == "pipe_file /b/out/upload-in-progress"
    assert recorder.calls[1] == "rm_file /b/out/manifest.json"
    assert recorder.calls[-2:] == ["put_file /b/out/manifest.json", "rm_file /b/out/upload-in-progress"]


def test_only_a_prepared_folder_is_overwritten(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    source = write(event_table(), tmp_path / "in")
    memory.pipe_file("/bucket/photos/one.jpg", b"precious")
    for url in ("memory://bucket", "memory://bucket/photos"):
        with pytest.raises(ValueError, match="exists and is not a prepared folder"):
            prepare_folder(source, "tables", url, key=KEY, overwrite=True)
        with pytest.raises(ValueError, match="exists and is not a prepared folder"):
            remote.publish(tmp_path / "in", url, lambda step: None)
    assert memory.cat_file("/bucket/photos/one.jpg") == b"precious"
    memory.pipe_file("/bucket/out/manifest.json", b"{")
    with pytest.raises(ValueError, match=r"not readable JSON .*--overwrite"):
        prepare_folder(source, "tables", "memory://bucket/out", key=KEY)
    prepare_folder(source, "tables", "memory://bucket/out", key=KEY, overwrite=True)
    assert memory.exists("/bucket/photos/one.jpg")


@pytest.mark.parametrize("stop", ["uploading file 1 of", "uploading file 3 of"])
def test_an_interrupted_upload_can_be_repeated(memory: fsspec.AbstractFileSystem, tmp_path: Path, stop: str) -> None:
    source = write(event_table(), tmp_path / "in")
    prepare_folder(source, "tables", "memory://bucket/out", key="old")

    def interrupt(step: str) -> None:
        if step.startswith(stop):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_folder(source, "tables", "memory://bucket/out", key=KEY, overwrite=True, progress=interrupt)
    assert not memory.exists("/bucket/out/manifest.json")
    assert not prepare_folder(source, "tables", "memory://bucket/out", key=KEY).already_prepared
    local = prepare_folder(source, "tables", tmp_path / "out", key=KEY)
    found = {name.removeprefix("/bucket/out/"): memory.cat_file(name) for name in memory.find("/bucket/out")}
    assert found == content(local.folder.path)


def test_a_failed_upload_is_resumed_without_new_work(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    source, url = write(event_table(), tmp_path / "in"), "memory://bucket/out"

    def fail(step: str) -> None:
        if step.startswith("uploading file 2"):
            with pytest.raises(ValueError, match="another run is preparing"):
                prepare_folder(source, "tables", url, key=KEY)
            raise OSError("no connection")

    with pytest.raises(OSError, match="no connection"):
        prepare_folder(source, "tables", url, key=KEY, resume=True, progress=fail)
    steps: list[str] = []
    prepare_folder(source, "tables", url, key=KEY, resume=True, progress=steps.append)
    assert [step for step in steps if not step.startswith("uploading")] == ["fingerprinting the input"]
    local = prepare_folder(source, "tables", tmp_path / "out", key=KEY)
    found = {name.removeprefix("/bucket/out/"): memory.cat_file(name) for name in memory.find("/bucket/out")}
    assert found == content(local.folder.path)
    assert not list((tmp_path / "cache" / "spacetime-gr").iterdir())


def test_what_is_missing_is_named(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    def said(source: str) -> str:
        with pytest.raises(ValueError, match=source.split(":")[0]) as caught:
            prepare_folder(source, "tables", tmp_path / "out", key=KEY)
        return str(caught.value)

    assert "does not exist or is empty" in said("memory://bucket/nothing")
    assert "expected a path or a URL such as s3://" in said("teleport://bucket/in")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsspec.core, "url_to_fs", lambda url: exec("raise ImportError('Install s3fs')"))
        assert "the driver of s3:// is not installed: pip install s3fs" in said("s3://bucket/in")
