"""A short training run from one command: data, networks that learn, weights that load and score."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from calcium.volume import CTVolume
from models.preprocess import AXES
from models.training import cache, weigher_training
from models.weightset import load_weights
from service.cli import main

pytestmark = pytest.mark.slow


def _curve(folder: Path, name: str) -> list[float]:
    return [float(row[name]) for row in csv.DictReader((folder / "curves.csv").read_text().splitlines())]


def test_a_tiny_recipe_learns_resumes_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AGATSTON_HOME", str(tmp_path))
    command = [
        "train",
        "all",
        "--recipe",
        "tiny",
        "--work",
        str(tmp_path / "work"),
        "--quiet",
        "--processes",
        "2",
    ]
    assert main(command) == 0
    work = tmp_path / "work"
    weigher = _curve(work / "train-weigher" / "first", "train_loss")
    assert weigher[-1] < 0.8 * weigher[0]
    second = _curve(work / "train-weigher", "train_loss")
    assert second[0] < weigher[0]
    localizer = _curve(work / "train-localizer" / "first", "train_loss")
    assert localizer[-1] < 0.9 * localizer[0]
    regressor = _curve(work / "train-agatston-iii", "train_loss")
    assert regressor[-1] < regressor[0]

    weights = load_weights(work / "weights" / "agatston")
    assert set(weights.networks) == {*AXES, "weigher"}
    assert weights.identity.training_data == "simulated"
    for experiment in ("i", "ii", "iii", "iv"):
        assert load_weights(work / "weights" / f"paper-{experiment}").scorer == "regressor"

    # The weigher separates coronary calcium from bone on a scan that it trained on.
    case = max(cache.load_all(work / "simulated"), key=lambda one: one.agatston)
    network = weights.networks["weigher"][0]
    assert isinstance(network, weigher_training.Weigher)
    network.config = replace(network.config, certain=0.0)  # after so little training nothing is certain
    found, crop = weigher_training.weigh(network, CTVolume(case.hu, case.geometry, 3.0), case.heart_box)
    labels = case.labels[crop.place.slices]
    counted = found.credit > 0
    coronary = found.weights[counted & np.isin(labels, (1, 2, 3))]
    rest = found.weights[counted & (labels == 0)]
    area = mannwhitneyu(coronary, rest).statistic / (len(coronary) * len(rest))  # under the ROC curve
    assert area > 0.8

    # Resuming a finished training changes nothing.
    before = (work / "train-weigher" / "best.pt").read_bytes()
    assert main([*command, "--resume"]) == 0
    assert (work / "train-weigher" / "best.pt").read_bytes() == before
    assert len(_curve(work / "train-weigher", "train_loss")) == len(second)
