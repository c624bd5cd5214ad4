"""The status page in a real browser: it shows, refreshes, finds, acts, and works in the dark and on a phone."""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta
from pathlib import Path

import peers
import pytest
import rows
from api_client import serving

from service.settings import Settings
from service.tables import Job, now

sync_api = pytest.importorskip("playwright.sync_api")

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PICTURES = os.environ.get("AGATSTON_TEST_PICTURES")  # a folder for what the browser saw, for people's eyes


@pytest.fixture(scope="module")
def browser():
    path = peers.chromium()
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def database(tmp_path):
    made = rows.database(tmp_path)
    yield made
    made.dispose()


@pytest.fixture
def site(database, tmp_path):
    with serving(Settings(home=tmp_path), database) as client:
        yield str(client.base_url).rstrip("/")


@contextlib.contextmanager
def opened(browser, url, **options):
    """Open a page; at the end nothing must have gone wrong in its console."""
    page = browser.new_page(**options)
    faults = []
    page.on(
        "console", lambda message: faults.append(message.text) if message.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request", lambda request: faults.append(request.url) if not request.url.startswith(url[:17]) else None
    )
    try:
        page.goto(url)
        yield page
        assert not faults, faults
    finally:
        if PICTURES:
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            name = os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0]
            page.screenshot(path=str(Path(PICTURES) / f"{name}.png"), full_page=True)
        page.close()


def shows_jobs(page, count):
    sync_api.expect(page.locator("table.jobs tbody tr")).to_have_count(count, timeout=15_000)


def text(page):
    return page.inner_text("body")


def test_an_empty_node_says_what_to_do(browser, site):
    with opened(browser, site + "/") as page:
        assert "Send a chest CT by C-STORE to AGATSTON, port 11112" in text(page)
        assert "Not ready: scp, worker" in text(page)
        assert "Research use only, not for diagnosis" in text(page)


def test_jobs_show_score_group_state_reason_and_delivery(browser, site, database):
    with database.transaction() as session:
        rows.beats(session)
        rows.add_job(session, agatston=412.4)
        rows.add_job(session, state="not_eligible", reason_code="x", reason="slices are 5.0 mm thick")
        rows.add_job(session, agatston=0.0, delivery="pending")
    with opened(browser, site + "/") as page:
        cells = [row.inner_text() for row in page.query_selector_all("table.jobs tbody tr")]
    assert "Ready" not in cells
    zero, refused, high = cells
    assert "0.0" in zero
    assert "very low" in zero
    assert "0 of 1 delivered" in zero
    assert "not eligible" in refused
    assert "slices are 5.0 mm thick" in refused
    assert "0" not in refused.replace("5.0", "").split("not eligible")[1].split("slices")[0], "no score is no 0"
    assert "412" in high
    assert "high" in high
    assert "delivered" in high


def test_the_page_follows_the_node_without_a_reload(browser, site, database):
    with opened(browser, site + "/") as page:
        page.evaluate("window.marker = 1")
        with database.transaction() as session:
            job = rows.add_job(session, agatston=37.0)
        page.wait_for_selector(f"a[href='/jobs/{job.id}']", timeout=15_000)
        assert page.evaluate("window.marker") == 1
        sync_api.expect(page.locator("#refresh")).to_have_text("live")


def test_a_lost_connection_is_told(browser, database, tmp_path):
    page = browser.new_page()
    with serving(Settings(home=tmp_path), database) as client:
        page.goto(str(client.base_url))
    page.wait_for_selector("#refresh.lost", timeout=30_000)
    assert "old" in page.inner_text("#refresh")
    page.close()


def test_a_refresh_keeps_the_keyboards_place(browser, site, database):
    with database.transaction() as session:
        job = rows.add_job(session, agatston=37.0)
    with opened(browser, site + "/") as page:
        page.focus(f"#j{job.id}")
        with database.transaction() as session:
            rows.add_job(session, agatston=3.0)
        shows_jobs(page, 2)
        assert page.evaluate("document.activeElement.id") == f"j{job.id}"


def test_a_job_page_draws_its_slices_and_tells_its_history(browser, site, database):
    with database.transaction() as session:
        job = rows.add_job(session, agatston=412.0)
        job.result.warnings = [{"code": "low_dose", "text": "noise of 41 HU <script>alert(1)</script>"}]
        rows.add_object(session, job, "pending", kind="summary", last_error="PACS does not answer", attempts=3)
    with opened(browser, f"{site}/jobs/{job.id}", color_scheme="dark") as page:
        assert page.locator("svg.profile rect.bar").count() > 10
        assert "412" in page.inner_text(".total")
        assert "95 % interval" in page.inner_text(".total")
        assert "<script>alert(1)</script>" in text(page), "shown as text"
        assert "PACS does not answer" in text(page)
        assert "taken by a worker" in page.inner_text(".timeline")
        assert page.inner_text(".actions button") == "Deliver again"


@pytest.mark.parametrize("state", ["failed", "not_eligible", "waiting", "running", "quarantined", "cancelled"])
def test_a_job_without_a_score_shows_its_reason_and_no_number(browser, site, database, state):
    with database.transaction() as session:
        job = rows.add_job(session, state=state, reason_code="code_x", reason="because of this")
    with opened(browser, f"{site}/jobs/{job.id}") as page:
        assert "No score" in page.inner_text(".no-score")
        assert "because of this" in page.inner_text(".no-score")
        assert page.locator(".total, svg").count() == 0


def test_buttons_act(browser, site, database):
    with database.transaction() as session:
        job = rows.add_job(session, state="failed", reason="a gap")
        alert = rows.add_alert(session)
    with opened(browser, f"{site}/jobs/{job.id}") as page:
        page.click("#do-rerun")
        page.wait_for_selector(".chip.s-waiting")
        assert page.url == f"{site}/jobs/{job.id}"
        page.click("#do-cancel")
        page.wait_for_selector(".chip.s-cancelled")
        page.goto(site)
        page.click(f"#a{alert.id}")
        sync_api.expect(page.locator(".alerts")).to_have_count(0)
    with database.reading() as session:
        assert session.get(Job, job.id).state == "cancelled"


def test_a_series_is_found_without_its_uid_in_the_address(browser, site, database):
    with database.transaction() as session:
        job = rows.add_job(session, agatston=37.0)
        rows.add_job(session, agatston=3.0)
        uid = job.series.series_instance_uid
    with opened(browser, site + "/") as page:
        page.fill("#uid", f"  {uid} ")
        page.press("#uid", "Enter")
        page.wait_for_url("**/search")
        assert uid not in page.url
        shows_jobs(page, 1)
        page.fill("#uid", "not a uid")
        page.click("text=Find")
        sync_api.expect(page.locator(".empty")).to_have_text("A UID has at most 64 digits and dots.")


def test_tabs_and_older_pages(browser, site, database):
    with database.transaction() as session:
        for number in range(30):
            rows.add_job(session, agatston=3.0, at=now() - timedelta(minutes=number))
        rows.add_job(session, state="failed", reason="a gap")
    with opened(browser, site + "/") as page:
        page.click("#t-trouble")
        shows_jobs(page, 1)
        page.click("#t-all")
        shows_jobs(page, 25)
        page.click("#older")
        shows_jobs(page, 6)
        page.click("text=Newest")
        shows_jobs(page, 25)


def test_a_phone_scrolls_only_downwards(browser, site, database):
    with database.transaction() as session:
        rows.beats(session)
        job = rows.add_job(session, agatston=412.0)
        rows.add_job(session, state="failed", reason="a gap of 7.5 mm between z -120.0 and -112.5 mm " * 3)
    for path in ("/", f"/jobs/{job.id}"):
        with opened(browser, site + path, viewport={"width": 390, "height": 800}) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_everything_has_a_name_for_a_screen_reader(browser, site, database):
    with database.transaction() as session:
        rows.beats(session)
        job = rows.add_job(session, agatston=412.0)
        rows.add_alert(session)
    for path in ("/", f"/jobs/{job.id}"):
        with opened(browser, site + path) as page:
            unnamed = page.evaluate("""() => [...document.querySelectorAll('a, button, input, svg[role=img]')]
                .filter(one => !(one.innerText || one.getAttribute('aria-label') || (one.labels || []).length
                                 || one.querySelector?.('img')))
                .map(one => one.outerHTML.slice(0, 80))""")
            assert not unnamed
            assert page.evaluate("document.documentElement.lang") == "en"
            assert page.locator("h1").count() == 1
            assert page.locator("main").count() == 1


def test_text_stands_out_from_its_ground(browser, site, database):
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5, in the light and in the dark."""
    with database.transaction() as session:
        rows.beats(session)
        for score in (0.2, 3.0, 37.0, 260.0, 812.0):
            rows.add_job(session, agatston=score)
        for state in ("failed", "not_eligible", "waiting", "cancelled"):
            rows.add_job(session, state=state, reason="because")
    measure = """() => {
        const parse = text => text.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = one => { for (; one; one = one.parentElement) {
            const back = parse(getComputedStyle(one).backgroundColor);
            if (back.length === 3 || back[3] === 1) return back; } return [255, 255, 255]; };
        const bad = new Map();
        const texts = '.group, .chip, .tag, td, dd, dt, small, button, a, .dim, .banner, .delivery';
        for (const one of document.querySelectorAll(texts)) {
            if (!one.innerText?.trim()) continue;
            const ink = light(parse(getComputedStyle(one).color));
            const [a, b] = [ink, light(ground(one))].sort((x, y) => y - x);
            const ratio = (a + 0.05) / (b + 0.05);
            if (ratio < 4.5) bad.set(one.className + ' ' + one.tagName, ratio.toFixed(2));
        }
        return [...bad];
    }"""
    for scheme in ("light", "dark"):
        with opened(browser, site + "/", color_scheme=scheme) as page:
            assert not page.evaluate(measure), scheme
