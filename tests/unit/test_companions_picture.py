"""The summary page: what is on it, and that it never fails on an unusual result."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import peers
import pytest
import report_samples as samples
from matplotlib.text import Text

from calcium.geometry import BoxMm
from calcium.risk import RiskGroup
from models.results import Caution, SliceScore, WeightsIdentity
from worker.companions import picture
from worker.identity import Device

DEVICE = Device()


@pytest.fixture(scope="module")
def result():
    return samples.result(samples.series())


def words(result, tmp_path) -> str:
    """Return the text on the page, as a PDF reader finds it."""
    path = tmp_path / "page.pdf"
    path.write_bytes(picture.draw_pdf(result, DEVICE))
    done = subprocess.run(
        [peers.program("pdftotext"), "-layout", str(path), "-"], capture_output=True, check=True
    )
    return done.stdout.decode()


def test_the_page_says_it_all(result, tmp_path):
    text = words(result, tmp_path)
    for expected in (
        "Predicted Agatston score",
        picture.format_score(result.agatston),
        "90% interval",
        "volume score",
        "Risk group",
        "High",
        "60 slices",
        "AI estimate: research use, not for diagnosis.",
        "Networks trained on simulated data",
        "weights simulated-2026 1.2 (01234567)",
        DEVICE.software_version,
    ):
        assert expected in text, expected


def test_the_number_on_a_slice_is_no_number_of_a_slice(result):
    with picture._style():
        page = picture._page(result, DEVICE, "series 1")
    told = [text.get_text() for text in page.findobj(Text)]
    for letter, score in zip("ABC", picture.contributing(result), strict=True):
        assert f"{letter}  slice score {picture.format_score(score.agatston)}" in told


def test_no_cautions_no_interval_no_heat_map(result, tmp_path):
    text = words(replace(result, cautions=(), agatston_interval=None, heat_map=None), tmp_path)
    assert "none" in text
    assert "interval" not in text
    assert "colours" not in text


def test_many_long_cautions_stay_on_the_page(result, tmp_path):
    cautions = tuple(Caution(f"c{index}", f"Caution {index}: " + "very long words " * 12) for index in range(7))
    text = words(replace(result, cautions=cautions), tmp_path)
    assert "AI estimate" in text


@pytest.mark.parametrize("validated", [True, False])
def test_no_text_leaves_the_page(result, validated):
    trained = "simulated scans, real anatomy of five public data sets and our own " * 2
    long = WeightsIdentity("a-long-name-of-a-set-of-weights", "2026.11.25-rc1", "f" * 64, trained, validated)
    cautions = tuple(Caution("c", "many words of a caution that goes on and on, " * 9) for _ in range(6))
    wide = replace(
        result, weights=long, cautions=cautions, agatston=123456.0, agatston_interval=(1e5, 2e5), volume_mm3=1e6
    )
    with picture._style():
        page = picture._page(wide, DEVICE, "series 1234567, 1234 slices of 0.625 mm, a-kernel-of-12345")
        canvas = picture.FigureCanvasAgg(page)
        canvas.draw()
        for text in page.findobj(Text):
            if text.get_text().strip() and text.get_visible():
                box = text.get_window_extent(canvas.get_renderer())
                assert box.x0 >= 0, text
                assert box.x1 <= picture.SIZE, text
                assert box.y0 >= 0, text
    foot = [text.get_text() for text in page.texts]
    assert picture.research_note(wide) in foot


def test_a_score_of_zero_shows_three_slices_of_the_heart(result):
    none = tuple(replace(one, agatston=0.0, volume_mm3=0.0) for one in result.slice_scores)
    empty = replace(result, agatston=0.0, volume_mm3=0.0, slice_scores=none, agatston_interval=(0.0, 4.0))
    shown = picture.contributing(empty)
    assert len(shown) == 3
    assert picture.draw_summary(empty, DEVICE).shape == (1024, 1024, 3)


def test_the_highest_slices_that_do_not_overlap(result):
    scores = tuple(
        SliceScore(1.5 * index, agatston, agatston)
        for index, agatston in enumerate((0.0, 50.0, 60.0, 55.0, 20.0, 0.0, 5.0, 4.0))
    )
    shown = picture.contributing(replace(result, slice_scores=scores))
    # 60 at z 3.0; its neighbours at 1.5 and 4.5 overlap it; 20 at 6.0; 5 at 9.0
    assert [one.agatston for one in shown] == [5.0, 20.0, 60.0]


@pytest.mark.parametrize("agatston", [0.0, 0.4, 3.0, 42.0, 250.0, 12345.6])
def test_every_group_can_be_drawn(result, agatston):
    page = picture.draw_summary(replace(result, agatston=agatston), DEVICE)
    group = RiskGroup.of(agatston)
    colour = np.array([int(picture.GROUP_COLOURS[group][place : place + 2], 16) for place in (1, 3, 5)])
    # The bar of the group is the only one in its full colour; its middle holds the probability.
    column = round((0.42 + 0.55 * (group + 0.15) / 5) * 1024)
    row = round((1 - 0.805 - 0.075 * 1.0 / 1.6) * 1024)
    assert np.abs(page[row, column].astype(int) - colour).max() <= 2


@pytest.mark.parametrize(
    ("agatston", "place"), [(0.0, 0.08), (0.5, 0.5), (100.0, 0.08), (250.0, 0.5), (399.0, 0.92), (9e4, 0.92)]
)
def test_the_mark_stands_where_the_score_is_and_on_no_edge(agatston, place):
    assert picture._place(agatston, RiskGroup.of(agatston)) == pytest.approx(place)


def test_the_page_tells_which_series_was_scored_and_no_patient():
    series = samples.series(SeriesNumber="4", SeriesDescription="Müller")
    series = replace(series, acquisition=replace(series.acquisition, kernel="Br40d\\3 a very long name"))
    assert picture.describe(series) == "series 4, 60 slices of 2.5 mm, Br40d"
    assert picture.describe(samples.series()) == "60 slices of 2.5 mm"


def test_a_heart_box_beyond_the_image_is_cut_to_it(result):
    wide = replace(result, heart_box=BoxMm((-200.0, -200.0, -400.0), (200.0, 200.0, 0.0)))
    assert picture.draw_summary(wide, DEVICE).shape == (1024, 1024, 3)


def test_scores_are_written_without_separators():
    assert picture.format_score(0.0) == "0.0"
    assert picture.format_score(9.94) == "9.9"
    assert picture.format_score(1697.4) == "1697"


def test_a_users_style_does_not_reach_the_page(result):
    plain = picture.draw_summary(result, DEVICE)
    with mpl.rc_context({"font.size": 40, "axes.facecolor": "red", "lines.linewidth": 9}):
        styled = picture.draw_summary(result, DEVICE)
    assert np.array_equal(plain, styled)
