"""Files that survive a power cut: the inbox of received slices and the outbox of written objects.

A key is a relative path below the store's root, made by this module from digests: UIDs come from outside and
may be paths. A file appears under its key complete or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from calcium.errors import ResourcesError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Bytes = bytes | bytearray | memoryview

KEY_PATTERN = re.compile(r"(inbox|outbox)(/[0-9a-z_-]{1,64}){1,3}\.dcm\Z")
TEMPORARY = ".tmp-"  # prefix of files that are being written
FOLDER_MODE, FILE_MODE = 0o700, 0o600  # readable by the service alone


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


def inbox_key(study_uid: str, series_uid: str, sop_uid: str) -> str:
    """Return the key of a received instance: one folder a series, 256 folders above them."""
    series = _digest(study_uid, series_uid)[:40]
    return f"inbox/{series[:2]}/{series}/{_digest(sop_uid)[:40]}.dcm"


def outbox_folder(job_id: str) -> str:
    """Return what the keys of a job's objects begin with."""
    return f"outbox/{_digest(job_id)[:40]}/"


def outbox_key(job_id: str, kind: str, sop_uid: str) -> str:
    """Return the key of an object that we wrote for a job."""
    name = re.sub("[^0-9a-z_-]", "_", kind.lower())[:32]
    return f"{outbox_folder(job_id)}{name}-{_digest(sop_uid)[:20]}.dcm"


class Store:
    """A folder of durable files.

    Parameters
    ----------
    root
        Its folder; made where it is missing, readable by this user alone.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        # Folders that are known to be on disk under their names, so that their parents need no fsync again.
        self._durable: set[Path] = set()

    def path(self, key: str) -> Path:
        """Return where the file of `key` lies.

        Raises
        ------
        ValueError
            The text is not a key of ours: nothing outside the store can be named.
        """
        if not KEY_PATTERN.match(key):
            raise ValueError(f"not a key of the store: {key!r}")
        return self.root / key

    def put(self, key: str, *parts: Bytes) -> int:
        """Write a file so that it survives a power cut before this returns, and return its size in bytes.

        The data go to a temporary file in the same folder, are synced, get their name in one step, and the
        folder is synced. An existing file of that key is replaced.

        Raises
        ------
        ResourcesError
            The disk is full or read-only; nothing of the file is left.
        """
        path = self.path(key)
        temporary: str | None = None
        try:
            self._make_folder(path.parent)
            descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)  # mode 0600
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                size = sum(_write_all(file, part) for part in parts)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
            temporary = None
            _sync_folder(path.parent)
        except OSError as error:
            raise ResourcesError(f"the store cannot write {key}: {error.strerror}") from error
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    Path(temporary).unlink()
        return size

    def open(self, key: str) -> BinaryIO:
        """Open a file for reading.

        Raises
        ------
        FileNotFoundError
            There is none.
        """
        return self.path(key).open("rb")

    def exists(self, key: str) -> bool:
        """Tell whether the file is there."""
        return self.path(key).is_file()

    def delete(self, keys: Iterable[str]) -> None:
        """Remove files, absent ones too, and then the folders that became empty."""
        folders = set()
        for key in keys:
            path = self.path(key)
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for folder in folders:
            self._durable.discard(folder)
            with contextlib.suppress(OSError):  # not empty, or filled again meanwhile
                folder.rmdir()

    def keys(self, area: str, *, changed_since: float | None = None) -> Iterator[str]:
        """Yield the keys of the files of ``inbox`` or ``outbox``, without the unfinished.

        Parameters
        ----------
        changed_since
            Look only into folders that changed since then (seconds since the epoch); None: into all.
        """
        for entry in self._entries(area, changed_since):
            key = Path(entry.path).relative_to(self.root).as_posix()
            if KEY_PATTERN.match(key):
                yield key

    def unfinished(self, area: str, *, older_than: float, changed_since: float | None = None) -> Iterator[Path]:
        """Yield temporary files last written before `older_than` (seconds since the epoch)."""
        for entry in self._entries(area, changed_since):
            if entry.name.startswith(TEMPORARY):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < older_than:
                        yield Path(entry.path)

    def _entries(self, area: str, changed_since: float | None) -> Iterator[os.DirEntry[str]]:
        folders = [self.root / area]
        while folders:
            folder = folders.pop()
            try:
                changed = changed_since is None or folder.stat().st_mtime >= changed_since
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(Path(entry.path))
                        elif changed:
                            yield entry
            except FileNotFoundError:
                continue  # emptied and removed meanwhile

    def free_bytes(self) -> int:
        """Return the space that is left on the store's file system, for this user."""
        self.root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free

    def _make_folder(self, folder: Path) -> None:
        if folder in self._durable and folder.is_dir():
            return
        missing = [folder]
        while not missing[-1].parent.is_dir():
            missing.append(missing[-1].parent)
        for path in reversed(missing):
            path.mkdir(mode=FOLDER_MODE, exist_ok=True)
            _sync_folder(path.parent)
        self._durable.add(folder)


def _write_all(file: object, part: Bytes) -> int:
    view = memoryview(part).cast("B")
    done = 0
    while done < len(view):
        done += file.write(view[done:])  # type: ignore[attr-defined]
    return done


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
