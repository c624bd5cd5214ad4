"""Tables of the DICOMweb client (PS3.18): it asks and stores, and answers nobody."""

from __future__ import annotations

from service.dicomweb import retrieval, search, server
from worker.conformance.markdown import table
from worker.conformance.network import VERDICT_WORDS
from worker.verdicts import HTTP_REFUSED, Verdict

STUDY = "/studies/{study}"
SERIES = f"{STUDY}/series/{{series}}"
# Transaction -> (resources, as user agent, as origin server).
TRANSACTIONS = {
    "Search (QIDO-RS)": (f"`/studies`, `{STUDY}/series`, `{SERIES}/instances`", True, False),
    "Retrieve (WADO-RS)": (f"`{SERIES}`, `{SERIES}/instances/{{instance}}`", True, False),
    "Store (STOW-RS)": ("`/studies`", True, False),
}


def blocks() -> dict[str, str]:
    """Return the tables by the names of their places in the page."""
    yes = {True: "Y", False: "N"}
    services = [
        (name, resources, yes[agent], yes[origin]) for name, (resources, agent, origin) in TRANSACTIONS.items()
    ]
    return {
        "web-services": table(("transaction", "resources", "user agent", "origin server"), services),
        "web-details": _details(),
        "web-statuses": _statuses(),
    }


def _details() -> str:
    rows = (
        ("Search: accepted media type", f"`{server.DICOM_JSON}`"),
        ("Search: attributes matched", ", ".join(sorted(search.MATCHED))),
        ("Search: others", "by `includefield`"),
        ("Search: pages", f"`limit` {search.PAGE} and `offset`, until nothing new comes"),
        ("Retrieve: accepted media type", f"`{retrieval.ACCEPT}`"),
        ("Store: media types", f"`multipart/related` of one object; the answer in `{server.DICOM_JSON}`"),
        ("time-outs", f"{server.CONNECT_SECONDS:g} s to connect, {server.ANSWER_SECONDS:g} s for an answer"),
        ("content encoding", "identity only"),
    )
    return table(("what", "value"), rows)


def _statuses() -> str:
    refused = ", ".join(f"{status}" for status in sorted(HTTP_REFUSED))
    rows = (
        (
            "Referenced SOP Sequence names the object",
            "also with a Warning Reason",
            VERDICT_WORDS[Verdict.STORED],
        ),
        ("Failed SOP Sequence names it", "the Failure Reason", "as that status of C-STORE (section 7.3.2)"),
        ("neither names it", refused, VERDICT_WORDS[Verdict.REFUSED]),
        ("neither names it", "any other, or no answer", VERDICT_WORDS[Verdict.RETRY] + "; Retry-After is kept"),
    )
    return table(("the answer to Store", "HTTP status or reason", "what becomes of the delivery"), rows)
