"""Asks a sending archive whether a quiet series is whole, and fetches what is missing.

Only for peers with ``query`` in the settings: at their url by QIDO-RS and WADO-RS, else by C-FIND and C-GET or
C-MOVE. NumberOfSeriesRelatedInstances may be empty or stale (PS3.4 section C.3.4), so the archive is asked for
the UIDs of the images. The series closes when we hold them all (service.closing), when the archive does not
answer, or after its maximum wait.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from calcium.errors import AgatstonError
from service import addresses, alerts, closing, scu
from service.dicomweb import retrieval, search
from service.dicomweb.server import Server
from service.intake import Intake
from service.settings import MEBIBYTE
from service.tables import Instance, Series

if TYPE_CHECKING:
    from service.admission import Admission
    from service.database import Database
    from service.inbox import Inbox
    from service.settings import Peer, Settings

log = logging.getLogger(__name__)

ROUND_SECONDS = 2.0
ANSWER_SECONDS = 20.0  # an archive that takes longer to find a series counts as not answering


class Completeness:
    """Asks the sending archives; `round` is for a Loop."""

    def __init__(self, settings: Settings, database: Database, inbox: Inbox, admission: Admission) -> None:
        self._settings = settings
        self._database = database
        self._inbox = inbox
        self._admission = admission
        self._asked = {peer.aet: peer for peer in settings.peers if peer.query}

    @property
    def asks(self) -> bool:
        """Whether any peer is to be asked."""
        return bool(self._asked)

    def round(self) -> None:
        """Ask about each quiet series of an archive that is to be asked."""
        for series in self._quiet():
            self._ask(self._asked[series.calling_ae], series)

    def _quiet(self) -> list[Series]:
        with self._database.reading() as session:
            found = closing.quiet(self._settings).where(
                Series.calling_ae.in_(self._asked), Series.query_failures < closing.MAX_QUERY_FAILURES
            )
            return [
                series
                for series in session.scalars(found)
                if not closing.is_complete(session, self._settings, series)
            ]

    def _ask(self, peer: Peer, series: Series) -> None:
        try:
            archive = addresses.archive(self._settings, peer)
            assert archive is not None  # the settings check it
            held = self._held_by(archive, series)
            with self._database.reading() as session:
                ours = set(
                    session.scalars(select(Instance.sop_instance_uid).where(Instance.series_id == series.id))
                )
            missing = sorted(held - ours)
            self._note(series, expected=len(held | ours))
            if missing:
                log.info(
                    "%d slices are missing, %s is asked for them [%s]", len(missing), archive, _uid(series)
                )
                self._fetch(archive, series, missing)
        except AgatstonError as error:
            log.warning("%s cannot tell whether a series is whole: %s [%s]", peer.aet, error, _uid(series))
            self._fail(series)

    def _held_by(self, archive: scu.Peer | Server, series: Series) -> set[str]:
        keys = {
            "StudyInstanceUID": series.study_instance_uid,
            "SeriesInstanceUID": series.series_instance_uid,
            "SOPInstanceUID": "",
        }
        if isinstance(archive, Server):
            with search.querying(archive, timeout=ANSWER_SECONDS) as query:
                return {answer["SOPInstanceUID"] for answer in query("IMAGE", keys)}
        answers = scu.find(
            archive, "IMAGE", keys, calling_ae=self._settings.ae_title, timeout=ANSWER_SECONDS,
            limit=self._settings.max_series_instances,
        )  # fmt: skip
        return {str(answer.SOPInstanceUID) for answer in answers if "SOPInstanceUID" in answer}

    def _fetch(self, archive: scu.Peer | Server, series: Series, missing: list[str]) -> None:
        study, uid, ours = series.study_instance_uid, series.series_instance_uid, self._settings.ae_title
        intake = Intake(
            self._inbox, self._admission, study_instance_uid=study, series_instance_uid=uid,
            calling_ae=series.calling_ae, called_ae=series.called_ae,
        )  # fmt: skip
        if isinstance(archive, Server):
            retrieval.retrieve(
                archive, intake.receive, study_instance_uid=study, series_instance_uid=uid,
                sop_instance_uids=missing, max_instance_bytes=self._settings.max_instance_mb * MEBIBYTE,
                max_instances=self._settings.max_series_instances,
            )  # fmt: skip
            intake.done()
            return
        try:
            scu.get(
                archive, intake.receive, study_instance_uid=study, series_instance_uid=uid,
                sop_instance_uids=missing, calling_ae=ours,
            )  # fmt: skip
            intake.done()
        except AgatstonError:  # no C-GET there: the archive sends them to our SCP
            scu.move(
                archive, study_instance_uid=study, series_instance_uid=uid, sop_instance_uids=missing,
                destination_ae=ours, calling_ae=ours,
            )  # fmt: skip

    def _note(self, series: Series, *, expected: int) -> None:
        with self._database.transaction() as session:
            # Not where an instance came while the archive was asked: it is asked again.
            unchanged = (Series.id == series.id) & (Series.last_received_at == series.last_received_at)
            session.execute(update(Series).where(unchanged).values(expected_instances=expected))

    def _fail(self, series: Series) -> None:
        with self._database.transaction() as session:
            row = session.get_one(Series, series.id, with_for_update=True)
            row.query_failures += 1
            if row.query_failures >= closing.MAX_QUERY_FAILURES:
                text = "the archive does not tell whether its series are whole; they close without its word"
                alerts.raise_alert(session, "completeness_unknown", row.calling_ae, text)


def _uid(series: Series) -> str:
    return series.series_instance_uid
