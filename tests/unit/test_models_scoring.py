"""Scoring whole volumes with networks that are set by hand: the answers are known."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import hand_made
import numpy as np
import pytest
import torch

from calcium.agatston import score_mask
from calcium.errors import NotEligibleError, ResourcesError, SettingsError, WeightsError
from calcium.geometry import VoxelBox
from calcium.risk import RiskGroup
from calcium.volume import CTVolume
from models import estimators
from models.device import Runner
from models.options import ScoringOptions
from models.scoring import Scorer
from models.weightset import load_weights, save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hand_made.save(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def scorer(weights: Path) -> Scorer:
    return Scorer.load(ScoringOptions(weights=str(weights), device="cpu"))


def test_with_all_weights_one_the_score_is_the_classical_one(scorer: Scorer):
    for pixel in (0.55, 0.9):
        volume = hand_made.phantom(pixel=pixel, shape=(120, round(150 / pixel), round(190 / pixel)))
        result = scorer.score(volume)
        reference = score_mask(result.resampled, np.ones(result.resampled.hu.shape, bool))
        assert reference.agatston > 100
        assert result.agatston == pytest.approx(reference.agatston, rel=1e-4)
        assert result.volume_mm3 == pytest.approx(reference.volume_mm3, rel=1e-4)
        found = {round(one.z_mm, 3): one.agatston for one in result.slice_scores}
        for number in np.flatnonzero(reference.slice_agatston):
            z = round(result.resampled.geometry.z_mm(int(number)), 3)
            assert found[z] == pytest.approx(reference.slice_agatston[number], rel=1e-4)
        assert result.cautions == ()


def test_the_box_is_the_heart(scorer: Scorer):
    result = scorer.score(hand_made.phantom())
    assert result.heart_box.iou(hand_made.HEART) > 0.85
    assert set(result.seconds) == {"resample", "localise", "check", "score"}
    assert result.weights.name == "hand-made"


def test_the_heat_map_adds_up_to_the_slice_scores_in_place(scorer: Scorer):
    volume = hand_made.phantom()
    result = scorer.score(volume)
    heat = result.heat_map
    assert heat is not None
    assert heat.response.shape == heat.box.shape
    assert heat.response.dtype == np.float32
    assert len(result.slice_scores) == heat.response.shape[0]
    np.testing.assert_allclose(
        heat.response.sum(axis=(1, 2)), [one.agatston for one in result.slice_scores], rtol=1e-4
    )
    assert float(heat.response.sum()) * 1.5 / 3.0 == pytest.approx(result.agatston, rel=1e-4)
    assert [one.z_mm for one in result.slice_scores] == pytest.approx(
        [result.resampled.geometry.z_mm(number) for number in range(heat.box.start[0], heat.box.stop[0])]
    )
    calcium = result.resampled.hu[heat.box.slices] >= 130
    assert ((heat.response > 0) == calcium).all()


def test_a_heart_without_calcium_scores_zero(scorer: Scorer):
    result = scorer.score(hand_made.phantom(calcium=False))
    assert result.agatston == result.volume_mm3 == 0
    assert all(one.agatston == 0 for one in result.slice_scores)
    assert result.risk_group.label == "very low"


def test_the_slice_grid_of_the_original_does_not_matter(scorer: Scorer):
    """The same scan in slices of 3 mm every 3 mm: half of the slices, the same heart."""
    volume = hand_made.phantom()
    geometry = type(volume.geometry)(
        volume.geometry.origin_mm, (3.0, 1.0, 1.0), (volume.geometry.shape[0] // 2, *volume.geometry.shape[1:])
    )
    thinned = CTVolume(np.ascontiguousarray(volume.hu[::2]), geometry, 3.0)
    result = scorer.score(thinned)
    assert result.resampled.geometry.spacing_mm[0] == 1.5
    assert result.heart_box.iou(hand_made.HEART) > 0.85


def test_no_heart_and_a_cut_heart_are_refused(scorer: Scorer):
    with pytest.raises(NotEligibleError) as refused:
        scorer.score(hand_made.phantom(heart=False, calcium=False))
    assert refused.value.code == "heart_not_found"
    whole = hand_made.phantom()
    cut = CTVolume(
        np.ascontiguousarray(whole.hu[:70]),
        type(whole.geometry)(
            whole.geometry.origin_mm, whole.geometry.spacing_mm, (70, *whole.geometry.shape[1:])
        ),
        3.0,
    )
    with pytest.raises(NotEligibleError) as refused:
        scorer.score(cut)
    assert refused.value.code == "heart_cut"


def test_bright_blood_is_refused(scorer: Scorer):
    volume = hand_made.phantom(calcium=False)
    hu = np.where(volume.hu == hand_made.HEART_HU, 180, volume.hu).astype(np.int16)
    with pytest.raises(NotEligibleError) as refused:
        scorer.score(CTVolume(hu, volume.geometry, 3.0))
    assert refused.value.code == "contrast_in_blood"


@pytest.mark.parametrize(("hu", "told"), [(1290, False), (1310, True)])
def test_what_counts_and_is_as_dense_as_a_stent_is_told(scorer: Scorer, hu: int, told: bool):
    volume = hand_made.phantom()
    dense = np.where(volume.hu == 450, hu, volume.hu).astype(np.int16)
    result = scorer.score(CTVolume(dense, volume.geometry, 3.0))
    cautions = {caution.code: caution.text for caution in result.cautions}
    assert ("dense_calcium" in cautions) is told
    if told:
        assert cautions["dense_calcium"] == f"what counts reaches {hu} HU: a stent is possible"


def test_dense_metal_that_does_not_count_is_no_stent(scorer: Scorer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimators, "without_metal", lambda weights, credit, hu: np.zeros_like(weights))
    volume = hand_made.phantom()
    dense = np.where(volume.hu == 450, 2000, volume.hu).astype(np.int16)
    result = scorer.score(CTVolume(dense, volume.geometry, 3.0))
    assert result.agatston == 0
    assert not any(caution.code == "dense_calcium" for caution in result.cautions)


def test_regressed_slices_are_summed_and_a_score_above_the_bound_is_told(tmp_path: Path):
    folder = hand_made.save(
        tmp_path, agatston=hand_made.regressor(40.0), volume=hand_made.regressor(-5.0, "volume")
    )
    scorer = Scorer.load(ScoringOptions(weights=str(folder), device="cpu"))
    assert scorer.weights.scorer == "regressor"
    result = scorer.score(hand_made.phantom())
    assert all(one.agatston == pytest.approx(40.0) for one in result.slice_scores)
    assert result.agatston == pytest.approx(40.0 * len(result.slice_scores) * 1.5 / 3.0, rel=1e-5)
    assert result.volume_mm3 == 0  # a negative output is no volume
    assert result.cautions[0].code == "above_bound"
    assert result.heat_map is not None
    assert result.heat_map.response.shape == result.heat_map.box.shape
    assert (result.heat_map.response >= 0).all()


def test_a_regressed_slice_counts_from_one_pixel_on(tmp_path: Path):
    volume = hand_made.phantom()
    _, row, column = volume.geometry.spacing_mm
    totals = []
    for part in (0.98, 1.02):
        networks = {
            "agatston": hand_made.regressor(part * row * column),
            "volume": hand_made.regressor(part * 1.5 * row * column, "volume"),
        }
        folder = hand_made.save(tmp_path / str(part), **networks)
        result = Scorer.load(ScoringOptions(weights=str(folder), device="cpu")).score(volume)
        totals.append((result.agatston, result.volume_mm3))
    assert totals[0] == (0, 0)
    assert min(totals[1]) > 0


def _of_two(folder: Path, first: float, second: float) -> Scorer:
    """Return a scorer with two weighers that give every pixel one logit."""
    axes = {axis: [hand_made.soft_tissue_classifier()] for axis in ("axial", "coronal", "sagittal")}
    networks = {**axes, "weigher": [hand_made.weigher(first), hand_made.weigher(second)]}
    save_weights(folder, networks, name="n", version="1", training_data="none", date="2026-01-01")
    return Scorer.load(ScoringOptions(weights=str(folder), device="cpu"))


def test_an_ensemble_is_the_mean_of_its_members(tmp_path: Path, scorer: Scorer):
    volume = hand_made.phantom()
    half = _of_two(tmp_path, 10.0, -10.0).score(volume)
    assert half.agatston == pytest.approx(scorer.score(volume).agatston / 2, rel=1e-4)


@pytest.mark.parametrize(("first", "asked"), [(-9.0, False), (-7.0, True)])
def test_a_later_member_is_asked_only_where_the_first_is_not_sure(
    tmp_path: Path, scorer: Scorer, first: float, asked: bool
):
    volume = hand_made.phantom()
    result = _of_two(tmp_path, first, 60.0).score(volume)
    all_of_it = scorer.score(volume).agatston
    assert result.agatston == pytest.approx(all_of_it if asked else 0, abs=0.01 * all_of_it)


def test_without_heat_map_there_is_none(weights: Path):
    plain = Scorer.load(ScoringOptions(weights=str(weights), device="cpu", heat_map=False))
    assert plain.score(hand_made.phantom()).heat_map is None


def test_scoring_leaves_the_volume_as_it_was_and_repeats_itself(scorer: Scorer):
    volume = hand_made.phantom()
    before = volume.hu.copy()
    first, second = scorer.score(volume), scorer.score(volume)
    assert (volume.hu == before).all()
    assert first.agatston == second.agatston
    assert first.slice_scores == second.slice_scores


def test_results_lie_within_the_scan(scorer: Scorer):
    result = scorer.score(hand_made.phantom())
    whole = VoxelBox((0, 0, 0), result.resampled.geometry.shape).to_mm(result.resampled.geometry)
    assert all(a <= b for a, b in zip(whole.low, result.heart_box.low, strict=True))
    assert all(a >= b for a, b in zip(whole.high, result.heart_box.high, strict=True))


class Hungry(torch.nn.Module):
    """Runs out of memory with more than `most` slices."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.seen: list[int] = []

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(slices))
        if len(slices) > self.most:
            raise torch.OutOfMemoryError("no memory")
        return slices * 2


def test_batches_shrink_when_memory_runs_out():
    network = Hungry(3)
    values = torch.arange(10.0)
    assert (Runner(batch=8)(network, network, (values,)) == values * 2).all()
    assert network.seen == [8, 4, 2, 2, 2, 2, 2]
    with pytest.raises(ResourcesError):
        Runner(batch=8)(Hungry(0), Hungry(0), (values,))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("sizes of tensors must match")

    with pytest.raises(RuntimeError, match="sizes"):
        Runner()(Hungry(9), broken, (torch.ones(3),))


def test_options_come_from_the_settings(tmp_path: Path):
    (tmp_path / "agatston.toml").write_text('weights = "paper"\nthreads = 3\nmin_slices = 90\n')
    environ = {"AGATSTON_HOME": str(tmp_path), "AGATSTON_MAX_SLICE_THICKNESS_MM": "5", "AGATSTON_THREADS": "2"}
    options = ScoringOptions.read(environ)
    assert (options.weights, options.threads, options.heat_map) == ("paper", 2, True)
    assert options.rules.max_slice_thickness_mm == 5.0
    assert options.rules.min_slices == 90
    assert not ScoringOptions.read({**environ, "AGATSTON_HEAT_MAP": "no"}).heat_map


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEVICE", "tpu"),
        ("THREADS", "many"),
        ("THREADS", "-1"),
        ("BATCH", "0"),
        ("MAX_SLICE_THICKNESS_MM", "6"),
        ("MIN_SLICES", "x"),
        ("HEAT_MAP", "perhaps"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, name: str, value: str):
    with pytest.raises(SettingsError):
        ScoringOptions.read({"AGATSTON_HOME": str(tmp_path), f"AGATSTON_{name}": value})


def test_absent_weights_are_named(tmp_path: Path):
    with pytest.raises(WeightsError, match="AGATSTON_WEIGHTS"):
        Scorer.load(ScoringOptions(weights=str(tmp_path / "none")))


def test_waiting_threads_sleep_whoever_asks_for_networks():
    """The policy has to stand before torch is loaded: importing any module of `models` sets it first."""
    code = "import models.scoring, os; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "PASSIVE"


@pytest.mark.parametrize(
    ("score", "printed", "label"),
    [(99.996, 99.99, "moderate"), (100.0, 100.0, "moderately high"), (0.999, 0.99, "very low")],
)
def test_what_is_printed_lies_in_the_group_that_is_printed(scorer: Scorer, score, printed, label):
    from models.commands.score import as_json, in_words  # noqa: PLC0415
    from models.pipeline import Outcome  # noqa: PLC0415

    result = replace(scorer.score(hand_made.phantom(calcium=False)), agatston=score)
    line = as_json(Outcome("1.2", "scored", result=result), 1.0, scorer)
    assert (line["agatston"], line["risk_group"]) == (printed, label)
    shown = float(in_words(line).split("score ")[1].split(" ")[0])
    assert RiskGroup.of(shown).label == label


def test_noise_above_what_the_networks_were_trained_on_is_told(weights: Path):
    given = load_weights(weights)
    given.manifest["figures"]["noise_limit_hu"] = 5
    scorer = Scorer(given, ScoringOptions(device="cpu"))
    volume = hand_made.phantom(calcium=False)
    noise = np.random.default_rng(1).normal(0, 20, volume.hu.shape).astype(np.int16)
    noisy = CTVolume(volume.hu + noise, volume.geometry, 3.0)
    assert [caution.code for caution in scorer.score(noisy).cautions] == ["noise"]
    assert scorer.score(volume).cautions == ()
