"""Checks of an installation: each says OK, WARN or FAIL, what was found, and what to do about a fault."""

from __future__ import annotations

import http.client
import importlib
import importlib.util
import json
import os
import shutil
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from sqlalchemy import make_url

from calcium.errors import AgatstonError, SettingsError, WeightsError
from service import addresses, pulling, retrievals, scu
from service.beats import alive
from service.database import Database, current, head
from service.dicomweb import search
from service.dispatch import Dispatcher
from service.settings import MEBIBYTE, Destination, Peer, Settings

Verdict = Literal["OK", "WARN", "FAIL"]

ROOMY = 5  # times the watermark; below it the disk deserves a warning
ECHO_SECONDS = 5.0
CERTIFICATE_WARNING = timedelta(days=30)
PROCESSES = ("scp", "api", "worker")


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found.

    Parameters
    ----------
    name
        What was checked.
    verdict
        OK, WARN (works, but somebody should know) or FAIL.
    text
        What was found.
    remedy
        What to do, where something is to be done.
    """

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""


def run_all(settings: Settings) -> Iterator[Check]:
    """Yield the checks of an installation whose settings could be read, one by one."""
    yield check_home(settings)
    yield check_disk(settings)
    database = check_database(settings)
    yield database
    if database.verdict == "OK":
        yield check_processes(settings)
        yield from check_sweeps(settings)
    yield check_broker(settings)
    yield from check_scoring(settings)
    yield check_dicom_port(settings)
    yield check_http_port(settings)
    yield from check_exposure(settings)
    yield from check_certificates(settings)
    yield from check_peers(settings)


def check_home(settings: Settings) -> Check:
    """Check that the folders of all state can be written, and by whom else they can be read."""
    for folder in dict.fromkeys((settings.home, settings.store_root)):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            remedy = "let this user write it, or set AGATSTON_HOME to a folder that it can write"
            return Check("home", "FAIL", f"{folder} cannot be written: {error.strerror}", remedy)
        if stat.S_IMODE(folder.stat().st_mode) & 0o007:
            return Check(
                "home", "WARN", f"{folder} is open to every user of this machine", f"chmod o= {folder}"
            )
    return Check("home", "OK", str(settings.home))


def check_disk(settings: Settings) -> Check:
    """Check the room for slices against the watermark below which C-STORE answers A700."""
    folder = settings.store_root
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free, least = shutil.disk_usage(folder).free, settings.disk_min_free_mb * MEBIBYTE
    text = f"{free / 1e9:.1f} GB free, slices are refused below {least / 1e9:.1f} GB"
    if free < least:
        return Check(
            "disk", "FAIL", text, "make room, lower AGATSTON_RETENTION_DAYS, or move AGATSTON_STORE_DIR"
        )
    return Check(
        "disk", "OK" if free > ROOMY * least else "WARN", text, "" if free > ROOMY * least else "make room"
    )


def check_database(settings: Settings) -> Check:
    """Check that the database answers and has the tables of this version."""
    shown = make_url(settings.database).render_as_string(hide_password=True)
    if settings.database.startswith("sqlite:///") and not os.path.exists(settings.database[10:]):  # noqa: PTH110
        return Check(
            "database", "WARN", f"{shown} does not exist yet", "`agatston up` or `agatston migrate` makes it"
        )
    database = None
    try:
        database = Database(settings.database)
        database.check()
        have, need = current(database), head()
    except AgatstonError as error:
        return Check("database", "FAIL", str(error), "start it, and check AGATSTON_DATABASE_URL")
    finally:
        if database is not None:
            database.dispose()
    if have != need:
        text = f"{shown} is at version {have or 'none'}, this program needs {need}"
        return Check("database", "FAIL", text, "run `agatston migrate`")
    return Check("database", "OK", f"{shown}, at version {have}")


def check_processes(settings: Settings) -> Check:
    """Tell which processes of the node run now."""
    database = Database(settings.database)
    try:
        needed = (*PROCESSES, "sender") if settings.all_destinations else PROCESSES
        running = [kind for kind in needed if alive(database, kind)]
    finally:
        database.dispose()
    missing = [kind for kind in needed if kind not in running]
    if missing:
        text = f"not running: {', '.join(missing)}" + (f"; running: {', '.join(running)}" if running else "")
        return Check(
            "processes", "WARN", text, "start `agatston up`, or each by `agatston scp`, `api`, `worker`"
        )
    return Check("processes", "OK", f"running: {', '.join(running)}")


def check_sweeps(settings: Settings) -> Iterator[Check]:
    """Check that each sweep has its archive, and tell how its latest run ended."""
    for sweep in settings.sweeps:
        name = f"sweep {sweep.name}"
        try:
            pulling.peer_of(settings, sweep.archive)
        except SettingsError as error:
            yield Check(name, "FAIL", str(error), "correct its archive in AGATSTON_SWEEPS")
            continue
        database = Database(settings.database)
        try:
            last = retrievals.last(database, sweep.name)
        finally:
            database.dispose()
        if last is None:
            yield Check(name, "OK", "has not run yet")
            continue
        text = (
            f"{last.state} at {last.started_at.astimezone():%Y-%m-%d %H:%M}: {last.found} found, "
            f"{last.known} known, {last.fetched} fetched, {last.failed} failed"
        )
        good = last.state in ("running", "done", "stopped") and not last.failed
        text += f"; {last.error}" if last.error else ""
        yield Check(name, "OK" if good else "WARN", text, "" if good else "see /api/v1/retrievals")


def check_broker(settings: Settings) -> Check:
    """Check that the broker answers."""
    shown = (
        make_url(settings.broker).render_as_string(hide_password=True)
        if "@" in settings.broker
        else settings.broker
    )
    dispatcher = None
    try:
        dispatcher = Dispatcher(settings)
        answers = dispatcher.ping()
    except OSError as error:
        return Check("broker", "FAIL", f"{shown}: {error.strerror}", "see home above")
    finally:
        if dispatcher is not None:
            dispatcher.close()
    if not answers:
        return Check("broker", "FAIL", f"{shown} does not answer", "start it, and check AGATSTON_BROKER_URL")
    return Check("broker", "OK", shown)


def check_scoring(settings: Settings) -> Iterator[Check]:
    """Check weights and device, where the extra `worker` is installed on this host."""
    if importlib.util.find_spec("torch") is None:
        text = "the extra `worker` is not installed here: this host receives, but does not score"
        yield Check("weights", "WARN", text, "pip install 'agatston[worker]' on the hosts that score")
        return
    # By name: the service imports neither models nor torch (docs/decisions/0002).
    torch = importlib.import_module("torch")
    try:
        identity = importlib.import_module("models.weightset").load_weights(settings.weights or None).identity
    except WeightsError as error:
        yield Check("weights", "FAIL", str(error), "check AGATSTON_WEIGHTS, or install the package again")
    else:
        text = f"{identity.name} {identity.version}, trained on {identity.training_data}, sha256 fits"
        yield Check("weights", "OK", text)
    wanted = settings.device
    if torch.cuda.is_available():
        yield Check("device", "OK", f"{torch.cuda.get_device_name(0)} (AGATSTON_DEVICE={wanted})")
    elif wanted.startswith("cuda"):
        remedy = "install the CUDA build of torch and its driver, or set AGATSTON_DEVICE=auto"
        yield Check("device", "FAIL", f"AGATSTON_DEVICE={wanted}, but torch sees no GPU", remedy)
    else:
        yield Check("device", "OK", f"CPU, {os.cpu_count()} cores; no GPU")


def _bindable(host: str, port: int) -> OSError | None:
    """Try to listen on a port as a server does; None where it can be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _check_port(
    name: str, variable: str, address: tuple[str, int], is_ours: Callable[[str, int], bool]
) -> Check:
    host, port = address
    fault = _bindable(host, port)
    if fault is None:
        return Check(name, "OK", f"{host}:{port} is free")
    reachable = host if host not in {"0.0.0.0", "::"} else "127.0.0.1"  # noqa: S104 (compared, not bound)  # nosec B104
    if is_ours(reachable, port):
        return Check(name, "OK", f"our node answers at {host}:{port}")
    remedy = f"stop the other program, or set {variable} to another port"
    if isinstance(fault, PermissionError):
        remedy = f"ports below 1024 need a privilege: set {variable} to a higher one"
    return Check(name, "FAIL", f"{host}:{port} cannot be had: {fault.strerror}", remedy)


def check_dicom_port(settings: Settings) -> Check:
    """Check that the DICOM port is free, or that our own SCP answers C-ECHO on it."""

    def is_ours(host: str, port: int) -> bool:
        try:
            scu.echo(
                scu.Peer(settings.ae_title, host, port, _tls(settings, wanted=bool(settings.tls_certificate))),
                calling_ae=settings.ae_title,
                timeout=ECHO_SECONDS,
            )
        except scu.RejectedError:  # it listens, and keeps strangers out, as it should
            return True
        except AgatstonError:
            return False
        return True

    return _check_port("dicom port", "AGATSTON_DICOM_PORT", (settings.dicom_host, settings.dicom_port), is_ours)


def check_http_port(settings: Settings) -> Check:
    """Check that the HTTP port is free, or that our own API answers on it."""

    def is_ours(host: str, port: int) -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=ECHO_SECONDS)
        try:
            connection.request("GET", "/health/live")
            return bool(json.loads(connection.getresponse().read(1000)) == {"status": "up"})
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()

    return _check_port("http port", "AGATSTON_HTTP_PORT", (settings.http_host, settings.http_port), is_ours)


def check_exposure(settings: Settings) -> Iterator[Check]:
    """Check that what is reachable from outside knows whom to let in."""
    try:
        settings.require_known_peers()
    except SettingsError as error:
        yield Check("dicom access", "FAIL", str(error))
    else:
        who = "any AE title" if settings.any_peer else f"{len(settings.peers)} peers"
        yield Check("dicom access", "OK", f"{who} may send to {settings.dicom_host}")
    outside = not settings.is_loopback(settings.http_host)
    if settings.tokens:
        yield Check("http access", "OK", f"{len(settings.tokens)} tokens")
    elif outside:
        text = (
            f"{settings.http_host} is reachable from outside without a token: only health checks are answered"
        )
        yield Check("http access", "WARN", text, "set AGATSTON_TOKENS")
    else:
        yield Check("http access", "OK", "open on loopback only, without tokens")


def check_certificates(settings: Settings) -> Iterator[Check]:
    """Check that our TLS certificate is valid for some time."""
    if settings.tls_certificate is None:
        return
    try:
        certificate = x509.load_pem_x509_certificate(settings.tls_certificate.read_bytes())
        _tls(settings, wanted=True)
    except (OSError, ValueError, AgatstonError) as error:
        yield Check(
            "certificate", "FAIL", f"{settings.tls_certificate}: {error}", "give PEM files that fit together"
        )
        return
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    text = f"{settings.tls_certificate} is valid until {certificate.not_valid_after_utc:%Y-%m-%d}"
    if left < timedelta():
        yield Check("certificate", "FAIL", text, "renew it")
    else:
        yield Check("certificate", "WARN" if left < CERTIFICATE_WARNING else "OK", text,
                    "renew it" if left < CERTIFICATE_WARNING else "")  # fmt: skip


def _tls(settings: Settings, *, wanted: bool) -> ssl.SSLContext | None:
    if not wanted or settings.tls_ca is None:
        return None
    return scu.tls_context(ca=settings.tls_ca, certificate=settings.tls_certificate, key=settings.tls_key)


def check_peers(settings: Settings) -> Iterator[Check]:
    """Ask every destination, and every peer whose address is known, by C-ECHO or QIDO-RS."""
    if not settings.all_destinations:
        yield Check("destinations", "WARN", "none: results go nowhere", "set AGATSTON_PACS=AET@host:port")
    for one in settings.all_destinations:
        yield from _ask(settings, f"destination {one.name}", one, fault="FAIL")
    for known in settings.peers:
        yield from _ask(settings, f"peer {known.name or known.aet}", known, fault="WARN")


def _ask(settings: Settings, name: str, known: Peer | Destination, *, fault: Verdict) -> Iterator[Check]:
    if known.url is not None:
        yield _search(settings, name, known, fault=fault)
    if known.host and known.port:
        yield _echo(settings, name, known, fault=fault)


def _search(settings: Settings, name: str, known: Peer | Destination, *, fault: Verdict) -> Check:
    try:
        server = addresses.web_server(settings, known)
        assert server is not None
        search.check(server, timeout=ECHO_SECONDS)
    except scu.PeerRefusedError as error:
        return Check(name, fault, str(error), "check the url, and its token, or user and password")
    except AgatstonError as error:
        return Check(name, fault, str(error), "check url, token file, ca and firewall, and that it runs")
    if server.authorization and server.url.startswith("http:"):
        return Check(
            name, "WARN", f"{server} answers QIDO-RS, and our password goes there in clear", "use https"
        )
    return Check(name, "OK", f"{server} answers QIDO-RS")


def _echo(settings: Settings, name: str, known: Peer | Destination, *, fault: Verdict) -> Check:
    try:
        peer = addresses.address(settings, known)
        assert peer is not None
        scu.echo(peer, calling_ae=settings.ae_title, timeout=ECHO_SECONDS)
    except scu.RejectedError as error:
        remedy = (
            f"let it know our AE title {settings.ae_title} and this host's address, and check its own AE title"
        )
        return Check(name, fault, str(error), remedy)
    except AgatstonError as error:
        return Check(name, fault, str(error), "check host, port and firewall, and that it runs")
    return Check(name, "OK", f"{peer} answers C-ECHO")
