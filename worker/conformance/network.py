"""Tables of what the node accepts and proposes on the network, from the tables that its SCP and SCU walk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.uid import UID
from pynetdicom._globals import DEFAULT_TRANSFER_SYNTAXES
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from service import commitments, scp, scu
from service.dimse import association, retrieval
from service.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from service.pulling import SERIES_KEYS
from service.settings import Settings
from service.statuses import STATUSES
from worker.conformance.markdown import table
from worker.verdicts import OTHER, VERDICTS, VERDICTS_BY_HIGH_BYTE, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

# Of service.statuses.STATUSES: when it is answered, and what a sender best does.
STORE_STATUSES = {
    "disk_full": ("free disk space is below `disk_min_free_mb`", "send again later"),
    "database_unavailable": ("the database does not answer", "send again later"),
    "queue_full": ("`max_waiting_jobs` jobs wait", "send again later"),
    "stopping": ("the node is being stopped", "send again later"),
    "mismatch": ("SOP Class or Instance UID differ between command and data set", "mend the instance"),
    "missing_uid": ("SOP Class, SOP Instance, Study or Series Instance UID is missing", "mend the instance"),
    "unreadable": ("the data set cannot be parsed", "mend the instance"),
    "conflicting_instance": (
        "the SOP Instance UID came before with other content; the first stays", "give it a UID of its own",
    ),
    "series_too_large": ("the series exceeds `max_series_mb` or `max_series_instances`", "split the series"),
    "internal": ("an unforeseen fault; the node's log says where", "send again once, then report it"),
}  # fmt: skip
VERDICT_WORDS = {
    Verdict.STORED: "stored",
    Verdict.RETRY: "tried again, with growing pauses, for `delivery_give_up_days`",
    Verdict.REFUSED: "refused for good: alert; the destination's `fallback` gets the object",
    Verdict.NO_CONTEXT: "as a rejected presentation context: Comprehensive SR in place of the 3D class",
}
REJECTIONS = {
    scp.REJECT_CALLING_AE: (
        "calling AE title not recognized", "no peer or destination of that title, or not from that address",
    ),
    scp.REJECT_CALLED_AE: ("called AE title not recognized", "another title than ours, with `check_called_ae`"),
    scp.REJECT_IDENTITY: (
        "no reason given", "no or a wrong user identity where the peer has `users`; or one not to be checked",
    ),
    scp.REJECT_LIMIT: (
        "local limit exceeded", "too many associations at once, of all or of this peer; or the node stops",
    ),
}  # fmt: skip
RESULTS = {1: "permanent", 2: "transient"}  # PS3.8 Table 9-21
SOURCES = {1: "service user", 2: "service provider (ACSE)", 3: "service provider (presentation)"}
# Class -> (service, we ask for it, we offer it).
DIMSE_SERVICES = {
    Verification: ("Verification", True, True),
    StorageCommitmentPushModel: ("Storage Commitment", True, True),
    StudyRootQueryRetrieveInformationModelFind: ("Query", True, False),
    StudyRootQueryRetrieveInformationModelMove: ("Retrieve", True, False),
    StudyRootQueryRetrieveInformationModelGet: ("Retrieve", True, False),
}
# What C-FIND asks for at each level; a filter of the operator's stands in the marked ones.
QUERY_KEYS = {
    "STUDY": ("StudyInstanceUID*", "StudyDate*", "StudyDescription", "ModalitiesInStudy*"),
    "SERIES": ("StudyInstanceUID*", "SeriesInstanceUID*", "Modality*", *SERIES_KEYS),
    "IMAGE": ("StudyInstanceUID*", "SeriesInstanceUID*", "SOPInstanceUID"),
}
PARAMETERS = (
    "ae_title", "dicom_host", "dicom_port", "check_called_ae", "allow_any_peer", "peers", "pacs",
    "destinations", "tls_certificate", "tls_key", "tls_ca", "acse_timeout", "dimse_timeout", "network_timeout",
    "max_associations", "max_associations_per_peer", "max_pdu", "max_instance_mb", "max_series_mb",
    "max_series_instances", "max_waiting_jobs", "disk_min_free_mb", "series_idle_seconds",
    "series_release_seconds", "series_max_wait_seconds", "retry_first_seconds", "retry_cap_seconds",
    "delivery_give_up_days", "retention_days",
)  # fmt: skip


def blocks() -> dict[str, str]:
    """Return the tables by the names of their places in the page."""
    return {
        "dimse-services": _services(),
        "accepted-contexts": _accepted(),
        "proposed-contexts": _proposed(),
        "query-keys": _query_keys(),
        "store-statuses": _store_statuses(),
        "delivery-statuses": _delivery_statuses(),
        "commitment-statuses": _commitment_statuses(),
        "rejections": _rejections(),
        "association-parameters": _association_parameters(),
        "parameters": _parameters(),
    }


def named(uid: str) -> tuple[str, str]:
    """Return a UID's name (PS3.6 Annex A) and the UID."""
    return UID(uid).name, f"`{uid}`"


def _yes(flag: bool) -> str:
    return "Y" if flag else "N"


def _services() -> str:
    rows = [
        (service, *named(uid), _yes(asked), _yes(offered))
        for uid, (service, asked, offered) in DIMSE_SERVICES.items()
    ]
    return table(("service", "SOP class", "UID", "SCU", "SCP"), rows)


def accepted_contexts() -> dict[str, tuple[tuple[str, ...], str]]:
    """Return SOP class -> (transfer syntaxes, roles) that the SCP accepts."""
    default = tuple(str(one) for one in DEFAULT_TRANSFER_SYNTAXES)
    found = {str(Verification): (default, "SCP")}
    found |= {
        str(one): (tuple(str(syntax) for syntax in scp.TRANSFER_SYNTAXES), "SCP") for one in scp.STORAGE_CLASSES
    }
    found[str(StorageCommitmentPushModel)] = (default, "SCP; SCU by role selection")
    return found


def _accepted() -> str:
    return _contexts(accepted_contexts())


def proposed_contexts() -> dict[str, tuple[tuple[str, ...], str]]:
    """Return SOP class -> (transfer syntaxes in the order of proposal, roles) that the SCU proposes.

    The classes of our own objects stand in the table of created objects: all in the syntaxes of `own_syntaxes`.
    """
    default = tuple(str(one) for one in DEFAULT_TRANSFER_SYNTAXES)
    plain = tuple(str(one) for one in association.UNCOMPRESSED)
    wanted = tuple(str(one) for one in retrieval.WANTED_SYNTAXES)
    return {
        str(Verification): (default, "SCU"),
        str(StorageCommitmentPushModel): (plain, "SCU; SCP by role selection, to report on a new association"),
        str(StudyRootQueryRetrieveInformationModelFind): (plain, "SCU"),
        str(StudyRootQueryRetrieveInformationModelMove): (plain, "SCU"),
        str(StudyRootQueryRetrieveInformationModelGet): (plain, "SCU"),
        **{str(one): (wanted, "SCP by role selection, with C-GET") for one in retrieval.WANTED_CLASSES},
    }


def _proposed() -> str:
    return _contexts(proposed_contexts())


def own_syntaxes() -> tuple[str, ...]:
    """Return the syntaxes that objects of ours are proposed in, each in a context of its own."""
    return tuple(str(one) for one in association.UNCOMPRESSED)


def _contexts(contexts: dict[str, tuple[tuple[str, ...], str]]) -> str:
    """Return a table of presentation contexts; classes with the same syntaxes and roles share a row."""
    shared: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for uid, form in contexts.items():
        shared.setdefault(form, []).append(uid)
    rows = [(_lines(uids), _lines(syntaxes), roles) for (syntaxes, roles), uids in shared.items()]
    return table(("SOP class", "transfer syntaxes", "our role"), rows)


def _lines(uids: Sequence[str]) -> str:
    return "<br>".join(" ".join(named(uid)) for uid in uids)


def _query_keys() -> str:
    rows = [(level, ", ".join(keys)) for level, keys in QUERY_KEYS.items()]
    return table(("level", "keys (matched where marked *, else asked for)"), rows)


def _store_statuses() -> str:
    rows: list[tuple[str, ...]] = [
        (
            "`0000`",
            "stored durably, or held already with the same content",
            "nothing; also for CT that gets no score",
        )
    ]
    rows += [(f"`{status:04X}`", *STORE_STATUSES[reason]) for reason, status in STATUSES.items()]
    return table(("status", "when", "what the sender best does"), rows)


def _delivery_statuses() -> str:
    rows = [(f"`{status:04X}`", VERDICT_WORDS[verdict]) for status, verdict in VERDICTS.items()]
    rows += [
        (f"`{high >> 4:X}xxx`" if high == 0xC0 else f"`{high:02X}xx`", VERDICT_WORDS[verdict])
        for high, verdict in VERDICTS_BY_HIGH_BYTE.items()
    ]
    rows += [
        ("any other", VERDICT_WORDS[OTHER]),
        ("none within the time-out, or no association", VERDICT_WORDS[Verdict.RETRY]),
    ]
    return table(("status of C-STORE", "what becomes of the delivery"), rows)


def _commitment_statuses() -> str:
    rows = (
        ("N-ACTION", "`0000`", "the request lies in the database"),
        (
            "N-ACTION",
            f"`{scp.INVALID_ARGUMENT:04X}`",
            f"not understood, or above {scp.MAX_REFERENCES} references",
        ),
        ("N-ACTION", f"`{scp.PROCESSING_FAILURE:04X}`", "the database does not answer"),
        ("N-EVENT-REPORT", "event type 1", "all instances lie here"),
        (
            "N-EVENT-REPORT",
            "event type 2",
            "some do not: Failed SOP Sequence names each with its Failure Reason",
        ),
        ("Failure Reason", f"`{scu.NO_SUCH_OBJECT:04X}`", "the instance is not here, or its file is gone"),
        (
            "Failure Reason",
            f"`{commitments.CLASS_INSTANCE_CONFLICT:04X}`",
            "it is here under another SOP Class UID",
        ),
    )
    return table(("in", "value", "when"), rows)


def _rejections() -> str:
    rows = [
        (f"{result} ({RESULTS[result]})", f"{source} ({SOURCES[source]})", f"{reason} ({word})", when)
        for (result, source, reason), (word, when) in REJECTIONS.items()
    ]
    return table(("result", "source", "reason", "when"), rows)


def _association_parameters() -> str:
    defaults = Settings.model_fields
    rows = (
        ("Application Context Name", "`1.2.840.10008.3.1.1.1`"),
        ("Implementation Class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
        ("Implementation Version Name", f"`{IMPLEMENTATION_VERSION_NAME}`"),
        ("maximum PDU length received, as acceptor", f"`max_pdu`: {defaults['max_pdu'].default} bytes"),
        ("maximum PDU length received, as initiator", f"{association.MAX_PDU} bytes"),
        ("associations accepted at once", f"`max_associations`: {defaults['max_associations'].default}"),
        ("of one peer", f"`max_associations_per_peer`: {defaults['max_associations_per_peer'].default}"),
        ("associations initiated at once", "one for each process that delivers, pulls or keeps"),
        ("asynchronous operations window", "not negotiated: one operation at a time"),
        ("time-out for the TCP connection", f"{association.CONNECT_SECONDS:g} s"),
        ("time-out for association and DIMSE answers, as initiator", f"{association.ANSWER_SECONDS:g} s"),
        (
            "time-outs as acceptor",
            ", ".join(
                f"`{name}`: {defaults[name].default:g} s"
                for name in ("acse_timeout", "dimse_timeout", "network_timeout")
            ),
        ),
    )
    return table(("parameter", "value"), rows)


def _parameters() -> str:
    rows = []
    for name in PARAMETERS:
        default = Settings.model_fields[name].default
        shown = "none" if default in (None, "", ()) else f"`{default}`"
        rows.append((f"`{name}`", shown))
    return table(("setting", "default"), rows)
