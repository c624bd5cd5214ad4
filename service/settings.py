"""All settings of the node, checked once at start; the sources are those of calcium.configuration.

Every field below is a variable ``AGATSTON_<FIELD>`` and a key of ``agatston.toml``. Lists (destinations, peers,
tokens) are TOML tables in the file and JSON in a variable.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from datetime import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from calcium import configuration
from calcium.errors import SettingsError
from service.identity import HASH_PATTERN
from service.patterns import Network, lies_in
from service.rules import Match

if TYPE_CHECKING:
    from collections.abc import Mapping

# PS3.5 section 6.2, VR AE: at most 16 characters, no backslash, no control character, not only spaces.
AE_PATTERN = re.compile(r"(?=.*\S)[\x20-\x5b\x5d-\x7e]{1,16}\Z")
PACS_PATTERN = re.compile(r"(?P<aet>[^@]+)@(?P<host>\[[^\]]+\]|[^:\[\]]+):(?P<port>\d{1,5})\Z")
DEFAULT_DESTINATION = "pacs"  # the name that AGATSTON_PACS gets
MEBIBYTE = 1 << 20


def _ae_title(value: object) -> object:
    if isinstance(value, str):
        value = value.strip()
        if not AE_PATTERN.match(value):
            raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return value


def web_url(text: str) -> str:
    """Return the base address of a DICOMweb server, without a slash at its end.

    Raises
    ------
    ValueError
        It is no http(s) address, or carries a password, a query or a fragment.
    """
    text = text.strip()
    try:
        parts = urlsplit(text)
        whole = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # a port or an IPv6 address of another form
        whole = False
    if not whole or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("write the base of a DICOMweb server, e.g. https://pacs.example/dicom-web")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError("the address of a DICOMweb server has no user, password, query or fragment in it")
    return text.rstrip("/")


def _json(value: object) -> object:
    """Read the form that lists have in an environment variable."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"as a variable it is a JSON list: {error}") from None
    return value


AeTitle = Annotated[str, BeforeValidator(_ae_title)]
Port = Annotated[int, Field(ge=0, le=65535)]  # 0: any free port, for tests
WebUrl = Annotated[str, BeforeValidator(lambda value: web_url(value) if isinstance(value, str) else value)]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Web(_Part):
    """How to reach a system by DICOMweb (PS3.18), where it is reached so.

    Parameters
    ----------
    url
        Base of its services, e.g. ``https://pacs.example/dicom-web``.
    token, token_file
        Bearer token (RFC 6750), or a file that holds it, read for each request.
    user, password, password_file
        For HTTP's Basic authentication (RFC 7617) instead.
    ca
        PEM file of the authorities to trust; None: those of the system. With `tls` we show our own certificate.
    """

    url: WebUrl | None = None
    token: SecretStr | None = None
    token_file: Path | None = None
    user: Annotated[str, Field(pattern=r"^[^:\x00-\x1f\x7f]+$")] | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    ca: Path | None = None

    @field_validator("token_file", "password_file", "ca", mode="after")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        ways = [one for one in (self.token, self.token_file, self.user) if one is not None]
        passwords = [one for one in (self.password, self.password_file) if one is not None]
        if self.url is None and (ways or passwords or self.ca is not None):
            raise ValueError("token, user, password and ca belong to a url")
        if len(ways) > 1:
            raise ValueError("give one of token, token_file and user")
        if len(passwords) != (self.user is not None):
            raise ValueError("user goes with one of password and password_file")
        return self


class Destination(_Web):
    """An archive that gets our objects: by C-STORE at `aet`, `host` and `port`, or by STOW-RS at `url`.

    Parameters
    ----------
    name
        Names the destination in rows, metrics and pages; not to be changed while deliveries wait.
    kinds
        Kinds of output objects that go there (service.tables.OutputObject.kind).
    commitment
        Ask for storage commitment (PS3.4 Annex J) and call a report delivered only when it is given; STOW-RS
        has none.
    fallback
        Name of another destination that gets what this one refuses for good.
    tls
        Speak TLS with this peer, with our certificate (`tls_certificate`).
    sources
        Calling AE titles whose results go there; empty: all.
    match
        What else a result must be to go there (service.rules).
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    aet: AeTitle = ""
    host: str = ""
    port: Port = 0
    kinds: tuple[str, ...] = ("sr3d", "sr", "summary")
    commitment: bool = False
    fallback: str | None = None
    tls: bool = False
    sources: tuple[AeTitle, ...] = ()
    match: Match = Match()

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        dimse = {"aet", "host", "port"} & self.model_fields_set
        if self.url is None and len(dimse) < 3:
            raise ValueError("a destination has aet, host and port, or a url")
        if self.url is not None and {"host", "port"} & dimse:
            raise ValueError("a destination has host and port, or a url, not both")
        if self.url is not None and self.commitment:
            raise ValueError("STOW-RS knows no storage commitment: the answer to each object is its delivery")
        return self

    @property
    def address(self) -> str:
        """Where it is, for people: the url, or ``AET@host:port``."""
        return self.url or f"{self.aet}@{self.host}:{self.port}"

    @classmethod
    def parse(
        cls, text: str, name: str = DEFAULT_DESTINATION, *, token_file: Path | None = None
    ) -> Destination:
        """Read ``AET@host:port`` or the base address of a DICOMweb server.

        Raises
        ------
        ValueError
            The text has another form.
        """
        if text.strip().lower().startswith("http"):
            return cls(name=name, url=web_url(text), token_file=token_file)
        found = PACS_PATTERN.match(text.strip())
        if found is None:
            raise ValueError(f"write AET@host:port, e.g. ORTHANC@127.0.0.1:4242, not {text!r}")
        return cls(name=name, aet=found["aet"], host=found["host"].strip("[]"), port=int(found["port"]))


class User(_Part):
    """Somebody who may come in by user identity negotiation; only a hash is kept.

    Parameters
    ----------
    passcode
        Made by ``agatston passcode``.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    passcode: Annotated[str, Field(pattern=HASH_PATTERN)]


class Peer(_Web):
    """A system that may send to us, and how to ask it back.

    Parameters
    ----------
    aet
        Its calling AE title.
    networks
        IP addresses or networks it calls from (``10.1.2.0/24``); empty: any.
    host, port
        Where it listens: for C-FIND counts, for fetching missing slices and for commitment answers; optional.
        With a `url` it is searched and pulled from by DICOMweb.
    query
        Ask it, by QIDO-RS at its `url` or by C-FIND, which instances a series has before the series is closed.
    lane
        ``urgent``: its series overtake the others.
    max_associations
        At most so many at once; None: only the limits of the node.
    users
        Each association must name one of these, with the passcode (PS3.7 section D.3.3.7); empty: no names
        are asked for.
    """

    name: str = ""
    aet: AeTitle
    networks: tuple[Network, ...] = ()
    host: str | None = None
    port: Port | None = None
    query: bool = False
    lane: Literal["normal", "urgent"] = "normal"
    max_associations: Count | None = None
    tls: bool = False
    users: tuple[User, ...] = ()

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if self.query and self.url is None and not (self.host and self.port):
            raise ValueError("query needs a host and port, or a url, where the peer is asked")
        return self

    def calls_from(self, address: str) -> bool:
        """Tell whether it may call from this IP address."""
        return not self.networks or lies_in(address, self.networks)


class Sweep(_Part):
    """What the node asks an archive for by itself, and when.

    Parameters
    ----------
    name
        Names it in rows and pages.
    archive
        A peer or destination of the settings; None: the first destination.
    days
        Study dates from so many days before today on: 1 is since yesterday.
    modality, description, protocol, study_description
        As service.pulling.Wanted.
    body_parts
        Values of Body Part Examined; empty: any. A series without one passes.
    min_instances
        Fewer are no chest.
    every_minutes, at
        After so many minutes, or at these times of the day (local time): one of the two.
    method
        As service.pulling.Puller.
    max_waiting, pause_seconds, limit
        The throttle: no series is begun while more jobs wait; a rest after each; at most so many in a run.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,48}$")]
    archive: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    days: Annotated[int, Field(ge=0, le=3650)] = 1
    modality: Annotated[str, Field(pattern=r"^[A-Z]{0,16}$")] = "CT"
    description: str = "*"
    protocol: str = "*"
    study_description: str = "*"
    body_parts: tuple[str, ...] = ()
    min_instances: Count = 20
    every_minutes: Annotated[float, Field(gt=0)] | None = None
    at: tuple[time, ...] = ()
    method: Literal["auto", "get", "move"] = "auto"
    max_waiting: Annotated[int, Field(ge=0)] = 20
    pause_seconds: Annotated[float, Field(ge=0)] = 2.0
    limit: Count = 500

    @field_validator("body_parts", mode="after")
    @classmethod
    def _upper(cls, parts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(part.upper() for part in parts)

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if (self.every_minutes is None) == (not self.at):
            raise ValueError("a sweep has every_minutes, or times at which it runs, not both")
        return self


class ApiToken(_Part):
    """A bearer token of the API; only its digest is kept.

    Parameters
    ----------
    sha256
        Hexadecimal SHA-256 of the token: ``printf %s TOKEN | sha256sum``.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    role: Literal["read", "operate"]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Settings(BaseModel):
    """The settings of every process of the node; `load` reads them."""

    model_config = ConfigDict(frozen=True, extra="ignore", ignored_types=(cached_property,))

    # where state lies
    home: Path = Field(default_factory=configuration.home)
    store_dir: Path | None = None  # inbox and outbox; default: <home>/store
    database_url: str = ""  # default: SQLite in <home>; postgresql://user:password@host/name
    broker_url: str = ""  # default: files in <home>/broker; redis://host:6379/0

    # DICOM
    ae_title: AeTitle = "AGATSTON"
    dicom_host: str = "127.0.0.1"  # 0.0.0.0 needs peers, or allow_any_peer
    dicom_port: Port = 11112
    check_called_ae: bool = False  # refuse associations that call us by another title
    allow_any_peer: bool = False  # on other interfaces than loopback: let unknown AE titles and addresses in
    peers: Annotated[tuple[Peer, ...], BeforeValidator(_json)] = ()
    # user identities that cannot be checked (a ticket, an assertion, a token, or a peer without users)
    unchecked_identities: Literal["ignore", "refuse"] = "ignore"
    pacs: str = ""  # the default destination: AET@host:port, or https://host/dicom-web
    pacs_token_file: Path | None = None  # holds the bearer token of an https:// default destination
    destinations: Annotated[tuple[Destination, ...], BeforeValidator(_json)] = ()
    tls_certificate: Path | None = None  # PEM; with tls_key and tls_ca: mutual TLS on the DICOM port
    tls_key: Path | None = None
    tls_ca: Path | None = None
    acse_timeout: Seconds = 30.0
    dimse_timeout: Seconds = 60.0
    network_timeout: Seconds = 60.0
    max_associations: Count = 50
    max_associations_per_peer: Count = 20
    max_pdu: Annotated[int, Field(ge=4096, le=1 << 20)] = 131072

    # what the node asks archives for by itself
    sweeps: Annotated[tuple[Sweep, ...], BeforeValidator(_json)] = ()

    # admission
    disk_min_free_mb: Annotated[int, Field(ge=0)] = 1024  # below it C-STORE answers A700
    max_instance_mb: Count = 1024  # an Enhanced CT of a whole chest stays below it
    max_receive_memory_mb: Count = 4096  # of unfinished messages of all associations together
    max_series_mb: Count = 8192
    max_series_instances: Count = 10000
    max_waiting_jobs: Count = 5000

    # when a series is complete
    series_idle_seconds: Seconds = 20.0  # since its last instance, while the sender stays or vanished
    series_release_seconds: Seconds = 3.0  # since the sender released its association in order
    series_max_wait_seconds: Seconds = 900.0  # since its first instance, whatever still comes

    # several reconstructions of one acquisition (docs/decisions/0044)
    reconstructions: Literal["best", "all"] = "best"  # score the most suitable one, or each
    reconstruction_wait_seconds: Annotated[float, Field(ge=0, le=600)] = 30.0  # for a series that arrives

    # jobs and deliveries
    lease_seconds: Seconds = 120.0
    keeper_seconds: Seconds = 1.0  # between two rounds of the keeper
    redispatch_seconds: Seconds = 60.0  # a waiting row gets another hint after so long
    retry_first_seconds: Seconds = 10.0
    retry_cap_seconds: Seconds = 3600.0
    max_attempts: Count = 10  # of a job with transient errors
    delivery_give_up_days: Seconds = 14.0
    delivery_alert_seconds: Seconds = 3600.0
    retention_days: Annotated[float, Field(ge=0)] = 7.0  # slices stay so long after their job ended

    # scoring; the worker and models read the same names
    weights: str = ""
    device: str = "auto"
    max_slice_thickness_mm: Annotated[float, Field(gt=0)] = 3.0

    # HTTP
    http_host: str = "127.0.0.1"
    http_port: Port = 8080
    tokens: Annotated[tuple[ApiToken, ...], BeforeValidator(_json)] = ()

    # logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["plain", "json"] = "plain"

    @field_validator(
        "home", "store_dir", "tls_certificate", "tls_key", "tls_ca", "pacs_token_file", mode="after"
    )
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("pacs", mode="after")
    @classmethod
    def _parses(cls, text: str) -> str:
        if text:
            Destination.parse(text)
        return text

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        tls = (self.tls_certificate, self.tls_key, self.tls_ca)
        if any(tls) and not all(tls):
            raise ValueError(
                "tls_certificate, tls_key and tls_ca are set together (mutual TLS, PS3.15 Annex B)"
            )
        for path in tls:
            if path is not None and not path.is_file():
                raise ValueError(f"the TLS file {path} does not exist")
        if self.pacs_token_file is not None and not self.pacs.strip().lower().startswith("http"):
            raise ValueError("pacs_token_file goes with a pacs that is an https:// address")
        names = [destination.name for destination in self.all_destinations]
        if len(set(names)) != len(names):
            raise ValueError(f"two destinations have one name: {', '.join(names)}")
        swept = [sweep.name for sweep in self.sweeps]
        if len(set(swept)) != len(swept):
            raise ValueError(f"two sweeps have one name: {', '.join(swept)}")
        for destination in self.all_destinations:
            if destination.fallback is not None and destination.fallback not in names:
                raise ValueError(f"the fallback of destination {destination.name} is not a destination")
        return self

    def require_known_peers(self) -> None:
        """Check that the DICOM port is not open to all the world by mistake.

        Raises
        ------
        SettingsError
            It listens on more than loopback, and nobody said who may send.
        """
        if not self.is_loopback(self.dicom_host) and not self.peers and not self.allow_any_peer:
            raise SettingsError(
                f"AGATSTON_DICOM_HOST: {self.dicom_host} is reachable from outside: list the peers that may "
                "send (AGATSTON_PEERS), or set AGATSTON_ALLOW_ANY_PEER=true"
            )

    @staticmethod
    def is_loopback(host: str) -> bool:
        """Tell whether a host name or address names this machine's loopback interface only."""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            pass
        try:
            found = socket.getaddrinfo(host or "0.0.0.0", None)  # noqa: S104 (empty binds to all)  # nosec B104
        except OSError:
            return False
        return all(ipaddress.ip_address(str(entry[4][0]).split("%")[0]).is_loopback for entry in found)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read and check all settings.

        Raises
        ------
        SettingsError
            Names each wrong setting and what is wrong with it; never its value, which may be a secret.
        """
        values = configuration.read(environ)
        values["home"] = configuration.home(environ)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SettingsError("; ".join(map(_line, error.errors(include_url=False)))) from None

    @cached_property
    def all_destinations(self) -> tuple[Destination, ...]:
        """The configured destinations, and the one of AGATSTON_PACS first."""
        if not self.pacs:
            return self.destinations
        return (Destination.parse(self.pacs, token_file=self.pacs_token_file), *self.destinations)

    def destination(self, name: str) -> Destination | None:
        """Return the destination of that name; None where the settings no longer have it."""
        return next((found for found in self.all_destinations if found.name == name), None)

    def sender(self, aet: str) -> Peer | None:
        """Return who may call with that AE title: a peer, or a destination (it answers commitments, moves)."""
        known = self.peer(aet)
        if known is None:
            archives = (one for one in self.all_destinations if one.host and one.aet == aet.strip())
            for found in archives:
                return Peer(name=found.name, aet=found.aet, host=found.host, port=found.port, tls=found.tls)
        return known

    def peer(self, aet: str) -> Peer | None:
        """Return the peer with that calling AE title."""
        return next((found for found in self.peers if found.aet == aet.strip()), None)

    @property
    def settle_seconds(self) -> float:
        """How long a job waits at most for another series of its study that arrives."""
        return self.reconstruction_wait_seconds if self.reconstructions == "best" else 0.0

    @property
    def any_peer(self) -> bool:
        """Whether unknown AE titles may send: on loopback without configured peers, or where a site says so."""
        return self.allow_any_peer or (not self.peers and self.is_loopback(self.dicom_host))

    @property
    def store_root(self) -> Path:
        """Folder of the inbox and the outbox."""
        return self.store_dir or self.home / "store"

    @property
    def database(self) -> str:
        """SQLAlchemy's URL of the database, with our driver's name."""
        if not self.database_url:
            return f"sqlite:///{self.home / 'agatston.db'}"
        return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", self.database_url)

    @property
    def broker(self) -> str:
        """Kombu's URL of the broker."""
        return self.broker_url or "filesystem://"


def _line(error: Any) -> str:
    place = [str(part) for part in error["loc"]]
    name = f"AGATSTON_{place[0].upper()}" + "".join(f"[{part}]" for part in place[1:]) if place else "settings"
    return f"{name}: {str(error['msg']).removeprefix('Value error, ')}"
