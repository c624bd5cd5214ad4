"""Whatever is sent to any operation of the API's own OpenAPI document, the answer is never 500."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from urllib.parse import quote

import httpx
import hypothesis.strategies as st
import pytest
import rows
from api_client import serving
from hypothesis import HealthCheck, example, given, settings

from service.api import queries
from service.settings import Settings

PAGES = ("/", "/fragments/overview", "/jobs/x", "/static/", "/static/..", "/sign-in", "/search")
HEADERS = (
    "Host", "Origin", "Authorization", "Cookie", "If-None-Match", "Sec-Fetch-Site", "Accept", "Content-Length",
    "Transfer-Encoding", "X-Forwarded-For",
)  # fmt: skip
LAX = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}

NASTY = st.one_of(
    st.text(max_size=60),
    st.integers().map(str),
    st.floats().map(str),
    st.datetimes().map(lambda moment: moment.isoformat()),
    st.sampled_from([
        "0", "-1", "9223372036854775807", "9223372036854775808", "1e400", "NaN", "null", "true", "[]", "\0",
        "%00",
        "..", "../../etc/passwd", "' OR 1=1 --", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00",
        "0001-01-01", "scored", "urgent", "1.2.3", "1." * 40, "\ud7ff", "\U0001f600", "a" * 5000,
        "MjAyNi0xMS0yNVQwODozMDowMHxh", "MDAwMC0wMC0wMFQwMDowMDowMHxh",
    ]),
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NASTY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def api(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    if request.param == "sqlite":
        database = rows.database(folder)
    else:
        database = rows.postgres_database(request.getfixturevalue("postgres"), "hostile")
    with database.transaction() as session:
        rows.beats(session)
        for state in ("scored", "failed", "waiting", "not_eligible"):
            rows.add_job(session, state=state, agatston=5.0 if state == "scored" else None)
        rows.add_alert(session)
    with serving(Settings(home=folder), database) as client:
        yield client
    database.dispose()


@pytest.fixture(scope="module")
def operations(api):
    document = api.get("/api/v1/openapi.json").json()
    found = [
        (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in {"get", "post"}
    ]
    assert len(found) >= 15
    return found


def known_job(api):
    return api.get("/api/v1/jobs").json()["jobs"][0]["id"]


def sent(api, method, path, **parts):
    """Send a request, and return its answer; what the client itself refuses to send is no request."""
    try:
        return api.request(method.upper(), path, **parts)
    except (httpx.InvalidURL, UnicodeError):
        return None


def sound(answer):
    assert (
        answer is None
        or answer.status_code < 500
        or (
            answer.status_code == 503 and "checks" in answer.json()  # readiness says so, with its checks
        )
    ), (answer.request.method, answer.request.url, answer.text)


@settings(max_examples=120, **LAX)
@given(data=st.data())
def test_no_operation_answers_500(api, operations, data):
    method, path, operation = data.draw(st.sampled_from(operations))
    query = {}
    for parameter in operation.get("parameters", []):
        name = parameter["name"]
        if parameter["in"] == "path":
            value = data.draw(st.one_of(st.just(known_job(api)), st.integers().map(str), NASTY))
            path = path.replace("{" + name + "}", quote(value, safe=""))
        elif data.draw(st.integers(0, 4)) == 0:
            query[name] = data.draw(st.one_of(NASTY, st.lists(NASTY, max_size=3)))
    parts = {"params": query}
    if method == "post":
        parts["content"] = data.draw(
            st.one_of(JSON.map(lambda body: json.dumps(body).encode()), st.binary(max_size=200))
        )
        parts["headers"] = {"Content-Type": data.draw(st.sampled_from(["application/json", "text/plain", "x"]))}
    sound(sent(api, method, path, **parts))


SOUND = {
    "series_instance_uid": "1.2.3",
    "study_instance_uid": "1.2.3",
    "state": ["failed"],
    "lane": "normal",
    "since": "2026-11-25T08:00:00Z",
    "until": "2026-11-25T08:00:00Z",
    "limit": 5,
    "cursor": str(queries.Cursor(datetime(2026, 11, 25, tzinfo=UTC), "0")),
}


@settings(max_examples=120, **LAX)
@given(name=st.sampled_from(sorted(SOUND)), value=st.one_of(NASTY, NASTY, JSON), alone=st.booleans())
@example(name="series_instance_uid", value="\0", alone=True)  # PostgreSQL's text holds no NUL
@example(name="since", value="0001-01-01T00:00:00+14:00", alone=True)  # no UTC has this moment
@example(name="cursor", value="MDAwMC0wMC0wMFQwMDowMDowMHxh", alone=True)  # 0000-00-00T00:00:00|a
def test_no_search_answers_500(api, name, value, alone):
    """One field is hostile, the others are absent or sound: so that it gets past the first check."""
    body = {} if alone else dict(SOUND)
    body[name] = value
    sound(sent(api, "post", "/api/v1/jobs/search", json=body) if not has_nan(body) else None)


def has_nan(value):
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return True
    return False


@settings(max_examples=60, **LAX)
@given(
    path=st.sampled_from(PAGES),
    query=st.dictionaries(st.sampled_from(["tab", "cursor", "x"]), NASTY, max_size=3),
    form=st.binary(max_size=300),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"]),
)
def test_no_page_answers_500(api, path, query, form, method):
    headers = {"Accept": "text/html", "Content-Type": "application/x-www-form-urlencoded"}
    sound(sent(api, method, path, params=query, content=form, headers=headers))


@settings(max_examples=60, **LAX)
@given(
    name=st.sampled_from(HEADERS),
    value=st.binary(max_size=100).map(lambda raw: bytes(byte for byte in raw if byte not in b"\r\n\0")),
    verb=st.sampled_from([b"GET", b"POST"]),
)
def test_no_header_ends_the_server(api, name, value, verb):
    """Raw bytes over a socket: a client library would refuse to send most of these."""
    address = ("127.0.0.1", api.base_url.port)
    with socket.create_connection(address, timeout=5) as connection:
        host = b"" if name == "Host" else b"Host: 127.0.0.1\r\n"
        connection.sendall(
            verb
            + b" /api/v1/jobs HTTP/1.1\r\n"
            + host
            + name.encode()
            + b": "
            + value
            + b"\r\nConnection: close\r\n\r\n"
        )
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:300]
    assert api.get("/health/live").status_code == 200


def test_answers_fit_their_own_schema(api):
    """What the document promises is what comes: every required property is there."""
    document = api.get("/api/v1/openapi.json").json()

    def required(schema, value, where):
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        if "anyOf" in schema:
            if value is None:
                return
            schema = next(one for one in schema["anyOf"] if one.get("type") != "null")
            required(schema, value, where)
            return
        if schema.get("type") == "array":
            for number, inner in enumerate(value):
                required(schema["items"], inner, f"{where}[{number}]")
        for name in schema.get("required", []):
            assert name in value, f"{where}.{name}"
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                required(inner, value[name], f"{where}.{name}")

    for path in (
        "/api/v1/jobs",
        f"/api/v1/jobs/{known_job(api)}",
        "/api/v1/status",
        "/api/v1/alerts",
        "/api/v1/series",
    ):
        template = "/api/v1/jobs/{job_id}" if path.count("/") == 4 else path
        content = document["paths"][template]["get"]["responses"]["200"]["content"]["application/json"]
        required(content["schema"], api.get(path).json(), path)
