"""The store: keys that cannot leave it, files that are whole or absent."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calcium.errors import ResourcesError
from service.store import KEY_PATTERN, Store, inbox_key, outbox_key

HOSTILE = st.one_of(
    st.text(max_size=80), st.sampled_from(["../../etc/passwd", "/", "..", "a\0b", "CON", "x" * 5000, ""])
)


@given(HOSTILE, HOSTILE, HOSTILE)
def test_any_uid_gives_a_key_inside_the_store(study, series, sop):
    for key in (inbox_key(study, series, sop), outbox_key(study, series, sop)):
        assert KEY_PATTERN.match(key)
        assert ".." not in key


@given(HOSTILE, HOSTILE)
def test_the_same_uid_in_two_series_has_two_keys(first, second):
    assert (inbox_key("1", first, "1") == inbox_key("1", second, "1")) == (first == second)


@pytest.mark.parametrize(
    "key", ["../x.dcm", "/etc/passwd", "inbox/../../x.dcm", "inbox/aa/b/c/d.dcm", "elsewhere/a.dcm"]
)
def test_a_foreign_key_is_refused(tmp_path, key):
    with pytest.raises(ValueError, match="not a key"):
        Store(tmp_path).path(key)


def test_a_file_is_readable_by_the_service_alone(tmp_path):
    store = Store(tmp_path / "store")
    key = inbox_key("1", "2", "3")
    assert store.put(key, b"head", memoryview(b"body")) == 8
    with store.open(key) as file:
        assert file.read() == b"headbody"
    path = store.path(key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    while path != tmp_path:
        path = path.parent
        if path != tmp_path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_file_and_folder_are_synced_before_put_returns(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real(fd))
    )
    store = Store(tmp_path / "store")
    key = inbox_key("1", "2", "3")
    store.put(key, b"x")
    parent = store.path(key).parent
    assert Path(synced[-2]).name.startswith(".tmp-")  # the file, before it has its name
    assert synced[-1] == str(parent)  # then its name
    assert str(parent.parent) in synced  # and once each new folder's name
    synced.clear()
    store.put(inbox_key("1", "2", "4"), b"y")
    assert len(synced) == 2


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    key = inbox_key("1", "2", "3")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store.root.joinpath(key).parent.mkdir(parents=True)
    with pytest.raises(ResourcesError, match="No space"):
        store.put(key, b"x" * 100)
    assert list(store.root.rglob("*.dcm")) == []
    assert list(store.unfinished("inbox", older_than=time.time() + 1)) == []


def test_unfinished_files_and_keys_are_told_apart(tmp_path):
    store = Store(tmp_path)
    key = inbox_key("1", "2", "3")
    store.put(key, b"x")
    (store.path(key).parent / ".tmp-abc").write_bytes(b"half")
    assert list(store.keys("inbox")) == [key]
    assert [path.name for path in store.unfinished("inbox", older_than=time.time() + 1)] == [".tmp-abc"]
    assert list(store.unfinished("inbox", older_than=time.time() - 60)) == []
    assert list(store.keys("inbox", changed_since=time.time() + 60)) == []


def test_deleting_removes_empty_folders_and_forgives_absent_files(tmp_path):
    store = Store(tmp_path)
    keys = [inbox_key("1", "2", str(number)) for number in range(2)]
    store.put(keys[0], b"x")
    store.delete(keys)
    assert not store.path(keys[0]).parent.exists()
    store.put(keys[1], b"y")  # the folder is made, and synced, again
    assert store.exists(keys[1])
