"""DIMSE client: what the node asks of its peers. Echo, store, find, move, get, and storage commitment.

Every function opens one association, does one thing, releases. The modules of service.dimse say how.
"""

from service.dimse.association import (
    ANSWER_SECONDS,
    NoContextError,
    Peer,
    PeerRefusedError,
    RejectedError,
    tls_context,
)
from service.dimse.commitment import (
    NO_SUCH_OBJECT,
    CommitmentReport,
    read_report,
    report_commitment,
    request_commitment,
    write_report,
)
from service.dimse.retrieval import Query, Received, RetrieveOutcome, find, get, move, querying
from service.dimse.storage import CANNOT_UNDERSTAND, NOT_NEGOTIATED, STORED, StoreOutcome, echo, store

__all__ = [
    "ANSWER_SECONDS",
    "CANNOT_UNDERSTAND",
    "NOT_NEGOTIATED",
    "NO_SUCH_OBJECT",
    "STORED",
    "CommitmentReport",
    "NoContextError",
    "Peer",
    "PeerRefusedError",
    "Query",
    "Received",
    "RejectedError",
    "RetrieveOutcome",
    "StoreOutcome",
    "echo",
    "find",
    "get",
    "move",
    "querying",
    "read_report",
    "report_commitment",
    "request_commitment",
    "store",
    "tls_context",
    "write_report",
]
