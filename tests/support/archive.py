"""dcmtk's dcmqrscp as an archive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import peers


@contextlib.contextmanager
def dcmqrscp(folder: Path, *, known: dict[str, int], aet: str = "ARCHIVE") -> Iterator[peers.DicomPeer]:
    """Run dcmqrscp with an empty database; `known`: AE titles that C-MOVE may send to, with their ports."""
    storage = folder / "storage"
    storage.mkdir(parents=True)
    port = peers.free_port()
    hosts = "\n".join(
        f"host{number} = ({title}, localhost, {to})" for number, (title, to) in enumerate(known.items())
    )
    configuration = folder / "dcmqrscp.cfg"
    configuration.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 16\n"
        f"HostTable BEGIN\n{hosts}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\n{aet} {storage} RW (100, 1024mb) ANY\nAETable END\n",
        encoding="ascii",
    )
    with peers.running([peers.program("dcmqrscp"), "-c", str(configuration)], port=port):
        yield peers.DicomPeer(aet, port, storage)
