"""Who may ask the API what, and what every answer says to browsers."""

from __future__ import annotations

import hashlib

import pytest
import rows
from api_client import serving

from service.api import security
from service.settings import Settings

READ, OPERATE = "read-token-of-the-tests", "operate-token-of-the-tests"
TOKENS = (
    {"name": "viewer", "role": "read", "sha256": hashlib.sha256(READ.encode()).hexdigest()},
    {"name": "admin", "role": "operate", "sha256": hashlib.sha256(OPERATE.encode()).hexdigest()},
)
PROTECTED = (
    "/",
    "/metrics",
    "/api/v1/jobs",
    "/api/v1/status",
    "/api/v1/alerts",
    "/api/v1/series",
    "/api/v1/openapi.json",
    "/jobs/11111111-1111-4111-8111-111111111111",
    "/fragments/overview",
)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    made = rows.database(tmp_path_factory.mktemp("home"))
    with made.transaction() as session:
        rows.beats(session)
        rows.add_job(session, agatston=120.0)
        rows.add_job(session, state="failed", reason="a gap")
    yield made
    made.dispose()


def client(database, folder, *, host="127.0.0.1", tokens=()):
    """Serve as if HTTP listened on `host`; the server of the tests listens on loopback."""
    return serving(Settings(home=folder, http_host=host, tokens=tokens), database)


@pytest.fixture(scope="module")
def closed(database, tmp_path_factory):
    with client(database, tmp_path_factory.mktemp("closed"), tokens=TOKENS) as made:
        yield made


@pytest.fixture(scope="module")
def opened(database, tmp_path_factory):
    with client(database, tmp_path_factory.mktemp("opened")) as made:
        yield made


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("path", PROTECTED)
def test_anonymous_callers_get_nothing(closed, path):
    answer = closed.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("token", ["", "wrong", READ.upper(), READ[:-1], READ + "x", "\u00e9" * 3, "x" * 4000])
def test_wrong_tokens_get_nothing(closed, token):
    headers = {"Authorization": f"Bearer {token}".strip().encode("latin-1")}
    for path in PROTECTED:
        assert closed.get(path, headers=headers).status_code == 401


def test_health_is_for_everyone_but_says_no_details(closed):
    assert closed.get("/health/live").json() == {"status": "up"}
    assert closed.get("/health/ready").json() == {"ready": True}
    assert "checks" in closed.get("/health/ready", headers=bearer(READ)).json()


def test_a_reader_reads_and_does_nothing(closed, database):
    (job,) = closed.get("/api/v1/jobs", params={"state": "failed"}, headers=bearer(READ)).json()["jobs"]
    for action in ("rerun", "cancel", "force", "deliver-again"):
        answer = closed.post(f"/api/v1/jobs/{job['id']}/{action}", headers=bearer(READ))
        assert answer.status_code == 403
        assert closed.post(f"/jobs/{job['id']}/actions/{action}", headers=bearer(READ)).status_code == 403
    assert closed.post("/api/v1/alerts/1/acknowledge", headers=bearer(READ)).status_code == 403
    assert closed.post("/api/v1/series/1/complete", headers=bearer(READ)).status_code == 403
    assert closed.get("/api/v1/openapi.json", headers=bearer(READ)).status_code == 403
    assert closed.get("/api/v1/openapi.json", headers=bearer(OPERATE)).status_code == 200


def test_the_page_of_a_reader_has_no_buttons(closed):
    page = closed.get("/?tab=trouble", headers={**bearer(READ), "Accept": "text/html"}).text
    assert "Acknowledge" not in page


def test_every_token_is_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(left, right):
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(security.hmac, "compare_digest", compare)
    guard = security.Guard(Settings(tokens=TOKENS))
    assert guard.of_token(READ) == security.Caller("viewer", "read")
    assert len(compared) == len(TOKENS), "the first match must not end the comparison"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7"])
def test_without_tokens_nothing_is_open_beyond_loopback(database, tmp_path, host):
    with client(database, tmp_path, host=host) as made:
        assert made.get("/health/live").status_code == 200
        for path in PROTECTED:
            assert made.get(path).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8080", "[::1]:8080", "127.1.2.3"])
def test_loopback_without_tokens_is_open(database, tmp_path, host):
    with client(database, tmp_path) as made:
        assert made.get("/api/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[::1", "", "[x]:80", "10.0.0.1"])
def test_a_rebound_name_is_refused(opened, host):
    assert opened.get("/api/v1/jobs", headers={"Host": host}).status_code in {400, 403}


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Host"])
def test_a_proxy_does_not_open_loopback_to_the_world(opened, name):
    assert opened.get("/api/v1/jobs", headers={name: "203.0.113.5"}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
    ],
)
def test_another_sites_form_changes_nothing(opened, headers):
    (job,) = opened.get("/api/v1/jobs", params={"state": "failed"}).json()["jobs"]
    answer = opened.post(f"/api/v1/jobs/{job['id']}/rerun", headers=headers)
    assert answer.status_code == 403
    assert opened.get(f"/api/v1/jobs/{job['id']}").json()["state"] == "failed"


def test_our_own_page_and_programs_may_change():
    own = security.Headers({"host": "127.0.0.1:8080", "origin": "http://127.0.0.1:8080"})
    assert security.from_own_page("POST", own)
    assert security.from_own_page("POST", security.Headers({"host": "h", "sec-fetch-site": "same-origin"}))
    assert security.from_own_page("POST", security.Headers({"host": "h"}))


@pytest.mark.parametrize("path", ["/", "/health/live", "/no/such/path", "/api/v1/jobs", "/static/page.css"])
def test_every_answer_bears_the_security_headers(opened, path):
    headers = opened.get(path).headers
    for name, value in security.HEADERS.items():
        assert headers[name] == value
    assert headers["cache-control"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


def test_cors_stays_closed(opened):
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = opened.options("/api/v1/jobs", headers=asked)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_large_body_is_refused(opened):
    answer = opened.post("/api/v1/jobs/search", content=b"x" * (security.MAX_BODY + 1))
    assert answer.status_code == 413


def test_errors_repeat_nothing_of_what_was_sent(opened):
    secret = "DOE^JANE"
    for answer in (
        opened.post("/api/v1/jobs/search", json={"series_instance_uid": secret}),
        opened.get("/api/v1/jobs", params={"state": secret}),
        opened.get("/api/v1/jobs", params={"cursor": secret}),
        opened.post("/search", data={"uid": secret}),
    ):
        assert secret not in answer.text


def test_a_fault_inside_answers_500_with_headers_and_no_internals(database, tmp_path, monkeypatch):
    with client(database, tmp_path) as made:
        monkeypatch.setattr(
            "service.api.queries.page", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("secret"))
        )
        answer = made.get("/api/v1/jobs")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["content-security-policy"] == security.CONTENT_SECURITY_POLICY


def test_signing_in_keeps_the_token_where_scripts_cannot_read_it(closed):
    page = {"Accept": "text/html"}
    assert closed.get("/", headers=page).headers["location"] == "/sign-in"
    assert closed.post("/sign-in", data={"token": "wrong"}).status_code == 401
    answer = closed.post("/sign-in", data={"token": READ})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert closed.get("/", headers=page).status_code == 200
    assert closed.post("/sign-out").status_code == 303
    assert closed.get("/", headers=page).status_code == 303
    closed.cookies.clear()


def test_the_cookie_of_an_https_page_travels_only_encrypted(closed):
    answer = closed.post("/sign-in", data={"token": READ}, headers={"X-Forwarded-Proto": "https"})
    assert "secure" in answer.headers["set-cookie"].lower()
    closed.cookies.clear()


def test_the_access_log_has_no_query_string(opened, caplog):
    caplog.set_level("INFO", logger="service.api.security")
    opened.get("/api/v1/jobs", params={"cursor": "secret-in-query"})
    opened.post("/api/v1/jobs/search", json={"series_instance_uid": "1.2.3.4.5.6.7.8"})
    assert "/api/v1/jobs" in caplog.text
    assert "secret-in-query" not in caplog.text
    assert "1.2.3.4.5.6.7.8" not in caplog.text
