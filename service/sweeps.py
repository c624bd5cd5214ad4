"""Sweeps: at set times the node asks an archive by itself, e.g. for every screening CT since yesterday.

What is known is skipped; of several reconstructions of one acquisition only the most suitable is fetched, as
far as the archive's answers tell; and no series is begun while many jobs wait. Each run is remembered
(service.retrievals).
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from calcium.acquisition import functional_groups, values
from calcium.dicom_files import guarded
from calcium.errors import AgatstonError, SeriesError, SettingsError
from calcium.frames import text
from calcium.reconstructions import Reconstruction, choose
from service import pulling, retrievals
from service.beats import process_name
from service.retrievals import OPEN, State, SweepBusyError
from service.tables import now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.admission import Admission
    from service.database import Database
    from service.inbox import Inbox
    from service.pulling import Archive, FoundSeries
    from service.settings import Settings, Sweep
    from service.tables import Retrieval

log = logging.getLogger(__name__)

ROUND_SECONDS = 5.0
AGAIN_AFTER_FAILURE = timedelta(minutes=10)
QUEUE_POLL_SECONDS = 2.0
# Asked for at IMAGE level; archives leave what they do not index empty (PS3.4 section C.6.1.1.5).
IMAGE_KEYS = (
    "SOPInstanceUID", "SOPClassUID", "ImageType", "FrameOfReferenceUID", "AcquisitionNumber", "AcquisitionUID",
    "AcquisitionTime", "AcquisitionDateTime", "SliceThickness", "ConvolutionKernel", "ImagePositionPatient",
    "ImageOrientationPatient", "NumberOfFrames", "ContrastBolusAgent", "BodyPartExamined",
)  # fmt: skip


class NoSuchSweepError(SettingsError):
    """The settings have no sweep of that name."""

    code = "no_such_sweep"


def is_due(sweep: Sweep, last: Retrieval | None, moment: datetime, *, since: datetime) -> bool:
    """Tell whether a sweep is to run.

    Parameters
    ----------
    last
        Its latest run.
    moment
        Now, with a zone.
    since
        When this process started: of the times before, only those after the last run are made up for.
    """
    if last is not None and last.state in OPEN:
        return last.state == State.ASKED
    if last is not None and last.state in (State.FAILED, State.LOST):
        return last.started_at + AGAIN_AFTER_FAILURE <= moment
    if sweep.every_minutes is not None:
        return last is None or last.started_at + timedelta(minutes=sweep.every_minutes) <= moment
    local = moment.astimezone()
    days = (local.date(), local.date() - timedelta(days=1))
    planned = (datetime.combine(day, time).astimezone() for day in days for time in sweep.at)
    latest = max(one for one in planned if one <= moment)
    return latest > last.started_at if last is not None else latest >= since


def schedule(sweep: Sweep) -> str:
    """Say when a sweep runs."""
    if sweep.every_minutes is not None:
        return f"every {sweep.every_minutes:g} min"
    return "at " + ", ".join(f"{one:%H:%M}" for one in sweep.at)


def named(settings: Settings, name: str) -> Sweep:
    """Return the sweep of that name.

    Raises
    ------
    NoSuchSweepError
        The settings have none.
    """
    for sweep in settings.sweeps:
        if sweep.name == name:
            return sweep
    raise NoSuchSweepError(f"there is no sweep {name} in the settings")


def ask(settings: Settings, database: Database, name: str, actor: str) -> int:
    """Let the process that runs sweeps run one now; return the id of the row by which it does.

    Raises
    ------
    NoSuchSweepError
        The settings have no sweep of that name.
    SweepBusyError
        It runs already, or is asked for.
    """
    sweep = named(settings, name)
    return retrievals.begin(
        database, kind="sweep", name=name, archive=sweep.archive or "", actor=actor, owner="", state=State.ASKED
    )


def wanted_of(sweep: Sweep, moment: datetime) -> pulling.Wanted:
    """Return what a sweep asks for; study dates from `days` before today on (local time)."""
    first = moment.astimezone().date() - timedelta(days=sweep.days)
    return pulling.Wanted(
        modality=sweep.modality,
        dates=f"{first:%Y%m%d}-",
        description=sweep.description,
        study_description=sweep.study_description,
        protocol=sweep.protocol,
        min_instances=sweep.min_instances,
    )


def fits(sweep: Sweep, found: FoundSeries) -> bool:
    """Tell whether the body part is one of the sweep's; a series without one passes."""
    return not sweep.body_parts or not found.body_part or found.body_part.upper() in sweep.body_parts


def most_suitable(archive: Archive, series: Sequence[FoundSeries], *, calling_ae: str) -> list[FoundSeries]:
    """Leave out the less suitable reconstructions, as far as the archive tells kernel and thickness.

    Raises
    ------
    ArchiveUnavailableError, PeerRefusedError
        As service.pulling.find.
    """
    by_study: dict[str, list[FoundSeries]] = defaultdict(list)
    for one in series:
        by_study[one.study_instance_uid].append(one)
    left_out: set[str] = set()
    with pulling.querying(archive, calling_ae) as query:
        for same in by_study.values():
            if len(same) == 1:
                continue
            candidates = []
            for one in same:
                keys = dict.fromkeys(IMAGE_KEYS, "") | {
                    "StudyInstanceUID": one.study_instance_uid, "SeriesInstanceUID": one.series_instance_uid,
                }  # fmt: skip
                candidate = described(one, query("IMAGE", keys))
                if candidate is not None:
                    candidates.append(candidate)
            left_out.update(uid for uid, best in choose(candidates).items() if best not in {None, uid})
    return [one for one in series if one.series_instance_uid not in left_out]


def described(found: FoundSeries, answers: Sequence[pulling.Answer]) -> Reconstruction | None:
    """Return a series as a candidate, by an archive's answers; None where they do not tell enough."""
    try:
        with guarded("an answer of the archive"):
            return _described(found, answers)
    except SeriesError as error:
        log.info("fetched unseen: %s [%s]", error, found.series_instance_uid)
        return None


def _described(found: FoundSeries, answers: Sequence[pulling.Answer]) -> Reconstruction | None:
    headers = []
    for answer in answers:
        header = Dataset()
        for keyword in IMAGE_KEYS:
            value = answer.get(keyword)
            if value not in (None, ""):
                setattr(header, keyword, value)
        header.StudyInstanceUID, header.SeriesInstanceUID = found.study_instance_uid, found.series_instance_uid
        header.Modality = found.modality or "CT"
        if "SOPClassUID" not in header:
            header.SOPClassUID = CTImageStorage
        headers.append(header)
    if len(headers) < 2 or not text(headers[0], "FrameOfReferenceUID"):
        return None
    groups = functional_groups(headers[0])
    if not values(groups, "SliceThickness") or not values(groups, "ConvolutionKernel"):
        return None
    return Reconstruction.of(headers)


class Sweeper:
    """Runs the sweeps that are due, one after another; `round` is for a Loop.

    Parameters
    ----------
    settings, database, inbox, admission
        Of the node.
    kind
        Of this process, for its name in rows.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        inbox: Inbox,
        admission: Admission,
        *,
        kind: str = "scp",
    ) -> None:
        self._settings, self._database = settings, database
        self._inbox, self._admission = inbox, admission
        self._owner = process_name(kind)
        self._since = now()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Begin no more series."""
        self._stop.set()

    def round(self) -> None:
        """Run each sweep that is due or asked for, and that no other process runs."""
        retrievals.end_lost(self._database)
        for sweep in self._settings.sweeps:
            if self._stop.is_set():
                return
            last = retrievals.last(self._database, sweep.name)
            if not is_due(sweep, last, now(), since=self._since):
                continue
            asked = last is not None and last.state == State.ASKED
            try:
                self.run(sweep, actor="schedule", asked=last.id if last is not None and asked else None)
            except SweepBusyError as error:  # another process was faster
                log.info("%s", error)

    def run(self, sweep: Sweep, *, actor: str, asked: int | None = None) -> int:
        """Run a sweep now; return the id of its row. A fault of the archive ends it, and is remembered.

        Parameters
        ----------
        asked
            Id of the row by which somebody asked for it.

        Raises
        ------
        SweepBusyError
            It runs already, or is asked for.
        """
        database = self._database
        if asked is None:
            number = retrievals.begin(
                database, kind="sweep", name=sweep.name, archive=sweep.archive or "", actor=actor,
                owner=self._owner,
            )  # fmt: skip
        elif retrievals.take(database, asked, self._owner):
            number = asked
        else:
            raise SweepBusyError(f"another process began sweep {sweep.name}")
        try:
            with retrievals.ending(database, number, stopped=self._stop.is_set):
                self._run(sweep, number)
        except AgatstonError as error:
            log.warning("sweep %s ended: %s", sweep.name, error)
        return number

    def _run(self, sweep: Sweep, number: int) -> None:
        settings, database = self._settings, self._database
        archive = pulling.peer_of(settings, sweep.archive)
        ours = settings.ae_title
        answers = pulling.find(archive, wanted_of(sweep, now()), calling_ae=ours)
        series = list(islice((one for one in answers if fits(sweep, one)), sweep.limit))
        best = series
        if settings.reconstructions == "best":
            best = most_suitable(archive, series, calling_ae=ours)
        retrievals.found(database, number, len(series), passed_over=len(series) - len(best))
        puller = pulling.Puller(settings, database, self._inbox, self._admission, archive, method=sweep.method)
        for one in best:
            if pulling.is_known(database, one):
                retrievals.note(database, number, pulling.Pulled(one, "known", 0))
                continue
            if not self._room(sweep, lambda: retrievals.touch(database, number)):
                return
            pulled = puller.pull(one)
            retrievals.note(database, number, pulled)
            if pulled.outcome in {"failed", "incomplete"}:
                log.warning("sweep %s: %s [%s]", sweep.name, pulled.text, one.series_instance_uid)
            if self._stop.wait(sweep.pause_seconds):
                return

    def _room(self, sweep: Sweep, waits: Callable[[], None]) -> bool:
        """Wait while the queue is full; False when we are to stop."""
        while not self._stop.is_set() and pulling.waiting_jobs(self._database) > sweep.max_waiting:
            waits()
            self._stop.wait(QUEUE_POLL_SECONDS)
        return not self._stop.is_set()
