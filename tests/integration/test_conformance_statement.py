"""The conformance statement says what the code makes and what the running node negotiates."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
from pathlib import Path

import peers
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes, CTImageStorage
from pynetdicom import AE, AllStoragePresentationContexts, build_context, build_role, evt
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.presentation import (
    BasicWorklistManagementPresentationContexts,
    QueryRetrievePresentationContexts,
    StorageCommitmentPresentationContexts,
    VerificationPresentationContexts,
)
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind
from receiving import receiver, settings

from calcium.errors import AgatstonError
from service import pulling, scu
from service.completeness import Completeness
from service.tables import Series
from worker.conformance import network, sample
from worker.conformance.__main__ import blocks
from worker.conformance.markdown import renew
from worker.encoding import file_bytes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
COMMITMENT = "1.2.840.10008.1.20.1"
MOST_CONTEXTS = 128  # of one association, PS3.8 section 9.3.2.2


def test_the_page_is_what_the_code_makes():
    page = PAGE.read_text(encoding="utf-8")
    assert page == renew(page, blocks()), "run: python -m worker.conformance"


def test_a_page_with_other_blocks_is_refused():
    with pytest.raises(ValueError, match="differ"):
        renew("<!-- begin other -->\nx\n<!-- end other -->", {"wanted": "y"})


def proposed() -> list[tuple[str, str]]:
    """Return every class that peers are likely to propose, and each class of ours in every syntax there is."""
    stated = network.accepted_contexts()
    groups = (
        AllStoragePresentationContexts, QueryRetrievePresentationContexts, VerificationPresentationContexts,
        StorageCommitmentPresentationContexts, BasicWorklistManagementPresentationContexts,
    )  # fmt: skip
    others = {str(one.abstract_syntax) for one in itertools.chain(*groups)} - set(stated)
    assert len(others) > 100
    return [(uid, str(syntax)) for uid in stated for syntax in AllTransferSyntaxes] + [
        (uid, str(syntax)) for uid in sorted(others) for syntax in AllTransferSyntaxes[:2]
    ]


def test_the_scp_accepts_the_contexts_of_the_statement_and_no_other(tmp_path):
    accepted = set()
    pairs = proposed()
    with receiver(tmp_path) as node:
        for start in range(0, len(pairs), MOST_CONTEXTS - 1):
            # With Verification in each, an association stands although all the others are refused.
            batch = [pairs[0], *pairs[start : start + MOST_CONTEXTS - 1]]
            entity = AE(ae_title="SCANNER")
            contexts = [build_context(*pair) for pair in batch]
            association = entity.associate("127.0.0.1", node.port, contexts)
            assert association.is_established
            accepted |= {
                (str(one.abstract_syntax), str(one.transfer_syntax[0])) for one in association.accepted_contexts
            }
            association.release()
    assert accepted == {
        (uid, syntax) for uid, (syntaxes, _) in network.accepted_contexts().items() for syntax in syntaxes
    }


def test_only_storage_commitment_takes_the_other_role(tmp_path):
    stated = network.accepted_contexts()
    with receiver(tmp_path) as node:
        entity = AE(ae_title="SCANNER")
        contexts = [build_context(uid) for uid in stated]
        roles = [build_role(uid, scu_role=True, scp_role=True) for uid in stated]
        association = entity.associate("127.0.0.1", node.port, contexts, ext_neg=roles)
        # Seen from the requestor: where it may act as the SCP, we are the SCU.
        ours = {str(one.abstract_syntax): one.as_scp for one in association.accepted_contexts}
        association.release()
    assert ours == {uid: "SCU by role selection" in words for uid, (_, words) in stated.items()}
    assert [uid for uid, other in ours.items() if other] == [COMMITMENT]


def test_association_parameters_as_dcmtk_sees_them(tmp_path):
    with receiver(tmp_path) as node:
        done = subprocess.run(
            [peers.program("echoscu"), "-d", "127.0.0.1", str(node.port)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    told = done.stdout + done.stderr
    stated = network.blocks()["association-parameters"]

    def seen(name: str) -> str:
        # The last: the first stands in dcmtk's own request.
        return re.findall(rf"{name}:\s+(\S+)", told)[-1]

    assert seen("Their Implementation Class UID") in stated
    assert seen("Their Implementation Version Name") in stated
    assert f"{seen('Their Max PDU Receive Size')} bytes" in stated


@pytest.mark.parametrize(
    ("calling", "called", "values", "rejection"),
    [
        ("STRANGER", "AGATSTON", {"peers": '[{"aet": "CT1"}]'}, (1, 1, 3)),
        ("CT1", "AGATSTON", {"peers": '[{"aet": "CT1", "networks": ["10.0.0.0/8"]}]'}, (1, 1, 3)),
        ("CT1", "OTHER", {"check_called_ae": "true"}, (1, 1, 7)),
        ("CT1", "AGATSTON", {"unchecked_identities": "refuse"}, (1, 2, 1)),
        ("CT1", "AGATSTON", {"max_associations_per_peer": "1"}, (2, 3, 2)),
    ],
)
def test_rejections_are_those_of_the_statement(tmp_path, calling, called, values, rejection):
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field = 1, b"somebody"
    extended = [identity] if "unchecked_identities" in values else []
    with receiver(tmp_path, **values) as node, contextlib.ExitStack() as stack:
        if "max_associations_per_peer" in values:
            stack.enter_context(node.association(ae_title=calling))
        entity = AE(ae_title=calling)
        entity.add_requested_context(CTImageStorage)
        association = entity.associate("127.0.0.1", node.port, ae_title=called, ext_neg=extended)
        assert association.is_rejected
        answer = association.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == rejection
    assert rejection in network.REJECTIONS


@contextlib.contextmanager
def recording():
    """Run a peer that notes what it is asked to negotiate and takes nothing: (peer, requests)."""
    requests = []

    def note(event):
        requestor = event.assoc.requestor
        requests.append((
            [
                (str(one.abstract_syntax), tuple(str(syntax) for syntax in one.transfer_syntax))
                for one in requestor.requested_contexts
            ],
            {str(uid): (role.scu_role, role.scp_role) for uid, role in requestor.role_selection.items()},
        ))  # fmt: skip

    entity = AE(ae_title="PEER")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.2.999")
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_REQUESTED, note)])
    try:
        yield scu.Peer("PEER", "127.0.0.1", server.server_address[1]), requests
    finally:
        server.shutdown()


def test_the_scu_proposes_the_contexts_of_the_statement(tmp_path):
    reference = [("1.2", "1.2.3")]
    asked = {
        "echo": lambda peer: scu.echo(peer, timeout=10),
        "find": lambda peer: scu.find(peer, "STUDY", {"StudyInstanceUID": "1.2"}, timeout=10),
        "move": lambda peer: scu.move(peer, study_instance_uid="1.2", destination_ae="AGATSTON", timeout=10),
        "get": lambda peer: scu.get(peer, lambda _: 0, study_instance_uid="1.2", timeout=10),
        "ask": lambda peer: scu.request_commitment(peer, reference, "1.2.4", timeout=10),
        "report": lambda peer: scu.report_commitment(peer, "1.2.4", reference, [], timeout=10),
    }
    seen: dict[str, list[str]] = {}
    roles: dict[str, set[tuple[bool, bool]]] = {}
    for ask in asked.values():
        with recording() as (peer, requests):
            with contextlib.suppress(AgatstonError):
                ask(peer)
            ((contexts, negotiated),) = requests
        for uid, syntaxes in contexts:
            seen.setdefault(uid, []).extend(syntax for syntax in syntaxes if syntax not in seen.get(uid, []))
        for uid, flags in negotiated.items():
            roles.setdefault(uid, set()).add(flags)
    stated = network.proposed_contexts()
    assert {uid: tuple(syntaxes) for uid, syntaxes in seen.items()} == {
        uid: syntaxes for uid, (syntaxes, _) in stated.items()
    }
    assert set(roles) == {uid for uid, (_, words) in stated.items() if "SCP by role selection" in words}
    assert all(scp for flags in roles.values() for _, scp in flags)


def test_our_objects_are_proposed_as_the_statement_says(tmp_path):
    files, classes = [], []
    for kind, made in sample.objects(0).items():
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(file_bytes(made))
        files.append(path)
        classes.append(str(made.SOPClassUID))
    with recording() as (peer, requests):
        outcomes = scu.store(peer, files, timeout=10)
    ((contexts, negotiated),) = requests
    assert {outcome.status for outcome in outcomes} == {scu.NOT_NEGOTIATED}
    assert negotiated == {}
    assert contexts == [(uid, (syntax,)) for uid in dict.fromkeys(classes) for syntax in network.own_syntaxes()]
    stated = (
        PAGE.read_text(encoding="utf-8").split("<!-- begin content -->")[1].split("<!-- end content -->")[0]
    )
    sent = {line.split("`")[1] for line in stated.splitlines() if "| Y | N | N | Y |" in line}
    assert sent == set(classes)


def test_queries_ask_for_the_keys_of_the_statement(tmp_path):
    asked = {}

    def on_find(event):
        query = event.identifier
        level = query.QueryRetrieveLevel
        asked[level] = {
            one.keyword + ("" if one.is_empty else "*") for one in query if one.keyword != "QueryRetrieveLevel"
        }
        match = Dataset()
        match.StudyInstanceUID, match.SeriesInstanceUID, match.SOPInstanceUID = "1.2.3", "1.2.4", "1.2.5"
        yield 0xFF00, match

    entity = AE(ae_title="ARCHIVE")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, on_find)])
    try:
        peer = scu.Peer("ARCHIVE", "127.0.0.1", server.server_address[1])
        # With everything that an operator can filter by.
        wanted = pulling.Wanted(dates="20261101-", study_instance_uid="1.2.3", series_instance_uid="1.2.4")
        assert list(pulling.find(peer, wanted, calling_ae="AGATSTON"))
        row = Series(study_instance_uid="1.2.3", series_instance_uid="1.2.4")
        asks = Completeness(settings(tmp_path), None, None, None)
        assert asks._held_by(peer, row) == {"1.2.5"}
    finally:
        server.shutdown()
    assert asked == {level: set(keys) for level, keys in network.QUERY_KEYS.items()}
