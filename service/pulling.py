"""Pulling: ask an archive which series it holds, leave out what is known, fetch the rest into our inbox.

By C-GET and WADO-RS the slices come on our own connection and go into the inbox as if they were sent; by
C-MOVE the archive sends them to our SCP, which must run and be known to it. Either way the keeper closes the
series and opens a job.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydicom.dataset import Dataset
from sqlalchemy import func, select

from calcium.errors import AgatstonError, SettingsError
from calcium.job import JobState
from service import addresses, scu
from service.admission import Admission
from service.database import Database
from service.dicomweb import retrieval, search
from service.dicomweb.server import Server
from service.inbox import Inbox
from service.intake import Intake
from service.patterns import like
from service.settings import MEBIBYTE, Destination, Peer, Settings, web_url
from service.tables import Instance, Job, Series

log = logging.getLogger(__name__)

Archive: TypeAlias = scu.Peer | Server
Method = Literal["get", "move", "auto"]
Receive: TypeAlias = Callable[[scu.Received], int]
Answer: TypeAlias = Dataset | dict[str, str]  # of a C-FIND or of QIDO-RS

# A job in one of these states is not to be made again by a sweep; what failed or was cancelled may be.
DONE = (JobState.WAITING, JobState.RUNNING, JobState.SCORED, JobState.NOT_ELIGIBLE, JobState.SUPERSEDED)
QUEUE_POLL_SECONDS = 2.0
# Asked for at SERIES level; archives leave optional ones empty (PS3.4 Table C.6-3).
SERIES_KEYS = (
    "SeriesDescription",
    "BodyPartExamined",
    "ProtocolName",
    "SeriesNumber",
    "NumberOfSeriesRelatedInstances",
)


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series that an archive holds; nothing here names the patient.

    Parameters
    ----------
    study_instance_uid, series_instance_uid
        Who it is.
    study_date
        ``YYYYMMDD`` or empty.
    modality, description, body_part, protocol
        As the archive says; may be empty.
    instances
        How many the archive holds, or None where it does not say; may be stale (PS3.4 section C.3.4).
    """

    study_instance_uid: str
    series_instance_uid: str
    study_date: str
    modality: str
    description: str
    body_part: str
    instances: int | None
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which series.

    Parameters
    ----------
    modality
        Exact, e.g. ``CT``; empty: any.
    dates
        Study dates as DICOM matches ranges, e.g. ``20261101-``; empty: any.
    description, protocol, study_description
        Patterns with ``*`` and ``?`` of Series Description, Protocol Name and Study Description, matched here
        without regard to case: archives differ about it. What an archive does not tell is empty text.
    study_instance_uid, series_instance_uid
        Exact; empty: any.
    min_instances
        Fewer are no chest; series of unknown size pass.
    """

    modality: str = "CT"
    dates: str = ""
    description: str = "*"
    study_description: str = "*"
    protocol: str = "*"
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    min_instances: int = 1


@dataclass(frozen=True, slots=True)
class Pulled:
    """What became of one series."""

    series: FoundSeries
    outcome: Literal["pulled", "known", "incomplete", "failed"]
    instances: int
    text: str = ""


def peer_of(settings: Settings, name: str | None) -> Archive:
    """Return the archive that `name` means.

    Parameters
    ----------
    name
        A peer's or destination's name, AE title or url, ``AET@host:port``, or the base address of a DICOMweb
        server; None: the first destination.

    Raises
    ------
    SettingsError
        Nothing of that name has an address, or no name is given and there is no destination.
    """
    if name is not None and name.lower().startswith("http"):
        return _server_at(settings, name)
    if name is not None and "@" in name:
        return scu.Peer.parse(name)
    if name is None:
        if not settings.all_destinations:
            text = "no archive: name one (--from AET@host:port or https://...) or set AGATSTON_PACS"
            raise SettingsError(text)
        name = settings.all_destinations[0].name
    for known in _systems(settings):
        if name in {known.name, known.aet} - {""}:
            found = addresses.archive(settings, known)
            if found is not None:
                return found
    raise SettingsError(f"no peer or destination {name} with host and port, or a url, in the settings")


def _systems(settings: Settings) -> list[Destination | Peer]:
    return [*settings.all_destinations, *settings.peers]


def _server_at(settings: Settings, text: str) -> Server:
    """Return the DICOMweb server of an address, with its token where the settings know one."""
    try:
        url = web_url(text)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    for known in _systems(settings):
        if known.url == url:
            server = addresses.web_server(settings, known)
            assert server is not None
            return server
    return Server(url)


def querying(
    peer: Archive, calling_ae: str
) -> AbstractContextManager[Callable[[str, Mapping[str, str]], Sequence[Answer]]]:
    """Open a connection for many queries: by C-FIND or QIDO-RS; it gives a function of a level and keys."""
    if isinstance(peer, Server):
        return search.querying(peer)
    return scu.querying(peer, calling_ae=calling_ae)


def find(peer: Archive, wanted: Wanted, *, calling_ae: str) -> Iterator[FoundSeries]:
    """Yield the series of an archive that are wanted: studies first, then the series of each.

    A query at SERIES level must name its study (hierarchical search, PS3.4 section C.4.1.3.1; in QIDO-RS any
    other is optional, PS3.18 section 10.6): most archives refuse or misread anything else.

    Raises
    ------
    ArchiveUnavailableError, PeerRefusedError
        As service.scu.find and service.dicomweb.search.querying.
    """
    studies_keys = {
        "StudyInstanceUID": wanted.study_instance_uid,
        "StudyDate": wanted.dates,
        "StudyDescription": "",
        "ModalitiesInStudy": wanted.modality,
    }
    with querying(peer, calling_ae) as query:
        for study in query("STUDY", studies_keys):
            study_uid = _text(study, "StudyInstanceUID")
            if not study_uid or not like(_text(study, "StudyDescription"), wanted.study_description):
                continue
            keys = dict.fromkeys(SERIES_KEYS, "") | {
                "StudyInstanceUID": study_uid,
                "SeriesInstanceUID": wanted.series_instance_uid,
                "Modality": wanted.modality,
            }
            for answer in query("SERIES", keys):
                found = _found(study, answer)
                if _fits(found, wanted):
                    yield found


def _found(study: Answer, answer: Answer) -> FoundSeries:
    count = _text(answer, "NumberOfSeriesRelatedInstances")
    return FoundSeries(
        study_instance_uid=_text(study, "StudyInstanceUID"),
        series_instance_uid=_text(answer, "SeriesInstanceUID"),
        study_date=_text(study, "StudyDate"),
        modality=_text(answer, "Modality"),
        description=_text(answer, "SeriesDescription"),
        body_part=_text(answer, "BodyPartExamined"),
        protocol=_text(answer, "ProtocolName"),
        instances=int(count) if count.isdigit() else None,
    )


def _fits(found: FoundSeries, wanted: Wanted) -> bool:
    return (
        bool(found.series_instance_uid)
        and (not wanted.modality or found.modality in {"", wanted.modality})
        and (not wanted.series_instance_uid or found.series_instance_uid == wanted.series_instance_uid)
        and like(found.description, wanted.description)
        and like(found.protocol, wanted.protocol)
        and (found.instances is None or found.instances >= wanted.min_instances)
    )


def _text(answer: Answer, keyword: str) -> str:
    value: Any = answer.get(keyword)
    return "" if value is None else str(value).strip().strip("\0")


def is_known(database: Database, found: FoundSeries) -> bool:
    """Tell whether a series needs no pull: it arrives now, or has a job and as many slices as the archive."""
    with database.reading() as session:
        series = session.scalars(
            select(Series).where(
                Series.study_instance_uid == found.study_instance_uid,
                Series.series_instance_uid == found.series_instance_uid,
            )
        ).first()
        if series is None:
            return False
        have = session.scalar(select(func.count(Instance.id)).where(Instance.series_id == series.id)) or 0
        if found.instances is not None and have < found.instances:
            return False
        if series.closed_at is None:
            return have > 0
        last = select(Job.state).where(Job.series_id == series.id).order_by(Job.revision.desc()).limit(1)
        return session.scalar(last) in DONE


def waiting_jobs(database: Database) -> int:
    """Return how many jobs wait: the measure of the throttle."""
    with database.reading() as session:
        return session.scalar(select(func.count(Job.id)).where(Job.state == JobState.WAITING)) or 0


class Puller:
    """Fetches series from one archive into the inbox of this node.

    Parameters
    ----------
    settings, database
        Of the node.
    inbox, admission
        Where slices go that come on our own connection.
    peer
        The archive.
    method
        ``get``, ``move``, or ``auto``: C-GET, and C-MOVE where the archive offers none. A DICOMweb server knows
        WADO-RS only.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        inbox: Inbox,
        admission: Admission,
        peer: Archive,
        *,
        method: Method = "auto",
    ) -> None:
        self._settings, self._database = settings, database
        self._inbox, self._admission = inbox, admission
        self.peer = peer
        self._method: Method = method

    def pull_all(
        self,
        series: Iterable[FoundSeries],
        *,
        again: bool = False,
        pause_seconds: float = 0.0,
        max_waiting: int = 20,
        stopping: Callable[[], bool] = lambda: False,
        waits: Callable[[], object] = lambda: None,
    ) -> Iterator[Pulled]:
        """Fetch series one after another, and yield what became of each.

        Parameters
        ----------
        again
            Fetch known series too.
        pause_seconds, max_waiting
            The throttle: a pause after each series, and none is begun while more jobs wait than that.
        stopping
            Asked before each series.
        waits
            Called now and then while the queue is full.
        """
        for one in series:
            if stopping():
                return
            if not again and is_known(self._database, one):
                yield Pulled(one, "known", 0)
                continue
            while waiting_jobs(self._database) > max_waiting and not stopping():
                waits()
                time.sleep(QUEUE_POLL_SECONDS)
            yield self.pull(one)
            time.sleep(pause_seconds)

    def pull(self, found: FoundSeries) -> Pulled:
        """Fetch one series; a fault of the archive is an outcome, not an exception."""
        try:
            outcome = self._fetch(found)
        except AgatstonError as error:
            return Pulled(found, "failed", 0, str(error))
        if outcome.failed:
            text = f"{outcome.failed} instances failed, status {outcome.status:04X}H"
            return Pulled(found, "incomplete", outcome.completed, text)
        if found.instances is not None and outcome.completed + outcome.warned < found.instances:
            text = f"the archive says it holds {found.instances}"
            return Pulled(found, "incomplete", outcome.completed, text)
        return Pulled(found, "pulled", outcome.completed)

    def _fetch(self, found: FoundSeries) -> scu.RetrieveOutcome:
        peer = self.peer
        if isinstance(peer, Server):
            return self._take_in(found, lambda receive: self._get_from_web(peer, receive, found))
        if self._method != "move":
            try:
                outcome = self._take_in(found, lambda receive: self._get(peer, receive, found))
            except scu.NoContextError:
                if self._method == "get":
                    raise
                log.info("%s offers no C-GET, C-MOVE is used", peer)
                self._method = "move"
            else:
                if self._method == "get" or outcome.completed or not outcome.failed:
                    return outcome
                log.info("no instance came by C-GET, C-MOVE is tried [%s]", found.series_instance_uid)
        return scu.move(
            peer,
            study_instance_uid=found.study_instance_uid,
            series_instance_uid=found.series_instance_uid,
            destination_ae=self._settings.ae_title,
            calling_ae=self._settings.ae_title,
        )

    def _get(self, peer: scu.Peer, receive: Receive, found: FoundSeries) -> scu.RetrieveOutcome:
        return scu.get(
            peer,
            receive,
            study_instance_uid=found.study_instance_uid,
            series_instance_uid=found.series_instance_uid,
            calling_ae=self._settings.ae_title,
        )

    def _get_from_web(self, server: Server, receive: Receive, found: FoundSeries) -> scu.RetrieveOutcome:
        return retrieval.retrieve(
            server,
            receive,
            study_instance_uid=found.study_instance_uid,
            series_instance_uid=found.series_instance_uid,
            max_instance_bytes=self._settings.max_instance_mb * MEBIBYTE,
            max_instances=self._settings.max_series_instances,
        )

    def _take_in(
        self, found: FoundSeries, fetch: Callable[[Receive], scu.RetrieveOutcome]
    ) -> scu.RetrieveOutcome:
        """Let `fetch` bring instances into the inbox; the series they fed may be closed when it returns."""
        intake = Intake(
            self._inbox,
            self._admission,
            study_instance_uid=found.study_instance_uid,
            series_instance_uid=found.series_instance_uid,
            calling_ae=self.peer.aet,
            called_ae=self._settings.ae_title,
        )
        outcome = fetch(intake.receive)
        intake.done()
        return outcome
