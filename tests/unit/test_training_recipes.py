"""What the weigher is trained on: which cases, how often, and who is held out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calcium.geometry import BoxMm, VolumeGeometry
from models.training import cache, recipes
from models.training.loop import LoopOptions
from models.training.recipes import (
    RECIPES,
    Job,
    localizer_scans,
    regressor_cases,
    times_drawn,
    validation_cases,
    weigher_cases,
)


def _case(name: str, patient: str = "", agatston: float = 0.0, motion: float = 0.0) -> cache.CachedCase:
    geometry, none = VolumeGeometry((0.0, 0.0, 0.0), (1.5, 1.0, 1.0), (2, 3, 4)), np.zeros(2, np.float32)
    origin = "real anatomy" if name.startswith("real-") else "simulated"
    hu, labels = np.zeros(geometry.shape, np.int16), np.zeros(geometry.shape, np.uint8)
    box = BoxMm((0, 0, 0), (3, 2, 1.5))
    description = {"motion_mm": motion}
    return cache.CachedCase(
        name,
        patient or name,
        origin,
        geometry,
        hu,
        labels,
        box,
        agatston,
        0.0,
        none,
        none,
        description=description,
    )


@pytest.fixture
def job(tmp_path):
    folders = {
        "simulated": ["training-1"], "sketches": ["sketch-1"], "adverse": ["adverse-1"],
        "crowded": ["crowded-1"],
        "real": ["real-a-1", "real-b-1"], "real-validation": ["real-a-2", "real-b-2"],
        "simulated-validation": ["training-9"],
    }  # fmt: skip
    for folder, names in folders.items():
        (tmp_path / folder).mkdir()
        for name in names:
            cache.save(_case(name, name[5] if name.startswith("real-") else ""), tmp_path / folder)
    return Job(RECIPES["tiny"], tmp_path, real=tmp_path)


def test_the_weigher_learns_from_all_kinds_but_from_no_held_out_patient(job):
    simulations = ["training-1", "sketch-1", "adverse-1", "crowded-1"]
    assert [case.name for case in weigher_cases(job, real=True)] == [*simulations, "real-a-1", "real-b-1"]
    assert [case.name for case in weigher_cases(job, real=False)] == simulations
    without = replace(job, hold_out=("a",))
    assert [case.name for case in weigher_cases(without, real=True)][4:] == ["real-b-1"]
    assert [case.name for case in validation_cases(without)] == ["training-9", "real-b-2"]
    assert [case.name for case in regressor_cases(without)] == ["training-1", "real-b-1"]
    simulated = replace(job, real=None)
    assert [case.name for case in regressor_cases(simulated)] == ["training-1"]
    assert not any(case.name.startswith("real") for case in weigher_cases(simulated, real=True))
    assert [case.name for case in validation_cases(simulated)] == ["training-9"]


@pytest.mark.parametrize(("own", "keep"), [(False, "last"), (True, "best")])
def test_only_a_sites_own_scans_choose_the_epoch_of_the_weigher(job, monkeypatch, own, keep):
    stages = _stages(job, monkeypatch, own="scans.csv" if own else None)
    assert [stage.loop.keep for stage in stages] == ["last", keep]


def test_the_weigher_meets_patients_in_its_second_stage_which_starts_from_the_first(job, monkeypatch):
    first, second = _stages(job, monkeypatch)
    assert not any(name.startswith("real") for name in first.names)
    assert {"real-a-1", "real-b-1"} < set(second.names)
    assert first.start is None
    assert second.start == {"trained": 0}
    assert second.loop.learning_rate < first.loop.learning_rate
    assert second.loop.seed != first.loop.seed
    # A held-out patient changes the second stage alone, in a folder of its own.
    again, without = _stages(job, monkeypatch, hold_out=("a",))
    assert (again.names, again.folder) == (first.names, first.folder)
    assert "real-a-1" not in without.names
    assert without.folder != second.folder


def test_fine_tuning_is_the_second_stage_alone(job, monkeypatch):
    monkeypatch.setattr(recipes, "start_of", lambda name: {"given": name})
    (only,) = _stages(job, monkeypatch, "agatston")
    assert only.start == {"given": "agatston"}
    assert "real-a-1" in only.names


def test_a_weigher_replaces_the_one_that_it_began_with(job, monkeypatch):
    monkeypatch.setattr(recipes, "start_of", lambda name: {"given": name})
    for seed in (7, 8):
        _stages(job, monkeypatch, seed=seed)
        _stages(job, monkeypatch, seed=seed, hold_out=("a",))
    assert recipes.members(job, "weigher") == ["weigher-7", "weigher-8"]
    _stages(job, monkeypatch, str(job.work / "train-weigher-7" / "best.pt"), seed=8)
    assert recipes.members(job, "weigher") == ["weigher-8"]
    _stages(job, monkeypatch, "agatston", seed=8)
    assert recipes.members(job, "weigher") == ["weigher-7", "weigher-8"]


@dataclass(frozen=True)
class Stage:
    """What a training of the weigher was asked for."""

    names: list[str]
    folder: Path
    loop: LoopOptions
    start: dict[str, object] | None


def _stages(job, monkeypatch, start=None, **changes) -> list[Stage]:
    """Return the stages in which a weigher is trained; nothing is trained."""
    stages: list[Stage] = []

    def train(training, validation, folder, loop, options, *, start, **how):
        network, number = torch.nn.Module(), len(stages)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "best.pt").touch()
        monkeypatch.setattr(network, "state_dict", lambda: {"trained": number})
        stages.append(Stage([case.name for case in training], folder, loop, start))
        return network, {"best": {}}

    monkeypatch.setattr(recipes, "make_data", lambda job, part: None)
    monkeypatch.setattr(recipes.weigher_training, "train", train)
    monkeypatch.setattr(recipes.weigher_training, "sharpened", lambda network: network)
    monkeypatch.setattr(recipes, "calibrate", lambda *given: None)
    if (own := changes.get("own")) is not None:
        changes["own"] = job.work / own
    recipes.train_weigher(replace(job, **changes), start)
    return stages


def test_sketches_adverse_scans_and_torn_arteries_are_drawn_more_often():
    assert times_drawn(_case("sketch-1", agatston=900, motion=6)) == 3
    assert times_drawn(_case("training-1", agatston=900, motion=1)) == 1
    assert times_drawn(_case("training-1", agatston=900, motion=6)) == 2
    assert times_drawn(_case("training-1", agatston=20, motion=6)) == 1
    assert times_drawn(_case("real-a-1", agatston=900, motion=6)) == 1
    assert times_drawn(_case("adverse-1")) == 2
    assert times_drawn(_case("crowded-1")) == 3


def test_half_of_what_the_localiser_draws_is_real_and_no_held_out_patient_is(job):
    kinds = {"localizer": ["training-1", "training-2"], "localizer-sketches": ["sketch-1", "sketch-2"]}
    kinds["original"] = ["real-a-0", "real-b-0"]
    for folder, names in kinds.items():
        (job.work / folder).mkdir()
        for name in names:
            case = _case(name, name[5] if name.startswith("real-") else "")
            grid = VolumeGeometry((0.0, 0.0, 0.0), (3.0, 3.0, 3.0), (2, 2, 2))
            cache.save(
                replace(case, coarse=np.zeros(grid.shape, np.int16), coarse_geometry=grid), job.work / folder
            )

    def drawn(real: bool, *hold_out: str) -> dict[str, float]:
        scans = localizer_scans(replace(job, hold_out=hold_out), real=real)
        return {scan.name: scan.share for scan in scans}

    simulated = drawn(real=False)
    assert simulated == pytest.approx({"training-1": 1, "training-2": 1, "sketch-1": 0.6, "sketch-2": 0.6})
    both = drawn(real=True)
    assert both["real-a-0"] + both["real-b-0"] == pytest.approx(sum(both.values()) / 2)
    assert {name: both[name] for name in simulated} == simulated
    without = drawn(True, "a")
    assert "real-a-0" not in without
    assert without["real-b-0"] == pytest.approx(sum(without.values()) / 2)
