"""From nothing to a set of weights: data, the three localisers, the scorer, calibration, manifest.

Recipes: ``paper`` is for whoever has a GPU (1,158 scans, 50 epochs), ``bundled`` made the bundled weigher on
two CPU cores, ``small`` is what they can do in hours.
Every stage is resumable and leaves its record in the working folder.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from calcium.agatston import AGATSTON_SLICE_MM, credit_map
from calcium.errors import SettingsError, WeightsError
from calcium.resample import INCREMENT_MM
from calcium.volume import CTVolume
from models.device import Runner
from models.estimators import weigh
from models.networks.localizer import SliceClassifier
from models.networks.regressor import TARGETS, Regressor, RegressorConfig
from models.networks.weigher import Weigher
from models.preprocess import AXES, heart_crop
from models.training import cache, dataset, localizer_training, own_data, regressor_training, weigher_training
from models.training.calibration import Calibration, fit
from models.training.evaluation import EXPERIMENTS
from models.training.loop import LoopOptions
from models.weightset import load_weights, save_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from models.training.cache import CachedCase
    from models.training.localizer_training import CoarseScan

logger = logging.getLogger(__name__)

# Seeds of simulated scans: training from 1, validation from here; evaluation has others (evaluation_scans).
VALIDATION_SEED = 500_001
REAL_VALIDATION_SEED = 900_001
# The localiser draws so many sketches for each simulated scan. Learning rates of the two stages.
SKETCH_SHARE = 0.6
LOCALIZER_RATES = (3e-3, 1.5e-3)
WEIGHER_RATES = (3e-3, 1.5e-3)
STAGE_SEEDS = 1_000  # between the seeds of two stages
STARTED_FROM = "started-from.txt"  # in a training's folder: the best.pt or the set that --start named
# Of the weigher: drawn scans of real anatomy, validation scans looked at after each epoch, drawing processes.
REAL_SHARE, VALIDATED, DRAWERS = 0.5, 24, 1
TORN_AGATSTON, TORN_MM = 300.0, 4.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much of everything.

    Parameters
    ----------
    simulated, validation
        Simulated heart crops for training and for validation.
    sketches
        Heart crops of the second, crude simulator, for training the weigher.
    adverse
        Heart crops with much metal and rare calcium beside the coronaries, for training the weigher.
    crowded
        Heart crops with ribs close to the heart and dense hilar nodes, for training the weigher.
    real_each, real_validation_each
        Scans made from each real series.
    localizer_scans, localizer_validation
        Simulated whole scans for the localiser.
    localizer_sketches
        Whole scans of the second simulator, for its training.
    localizer_epochs, localizer_steps
        Of the localiser's first stage, on scans of both simulators; no patient is in it.
    second_epochs, second_steps
        Of its second stage, on real scans too and at a lower rate.
    weigher_epochs
        Of the weigher's first stage, on simulated scans; no patient is in it.
    weigher_second_epochs
        Of its second stage, on real scans too and at a lower rate.
    weigher_steps
        Of each epoch of both.
    regressor_epochs
        Of each of the paper's networks.
    regressor_batch
        Slices.
    regressor_channels, regressor_hidden
        Size of the paper's networks, which the paper does not give.
    regressor_schedule
        ``constant`` (the paper) or, where few epochs can be had, ``cosine``.
    regressor_balanced
        Epochs at the start in which half of each batch has calcium; the paper has none.
    """

    simulated: int
    validation: int
    sketches: int
    adverse: int
    crowded: int
    real_each: int
    real_validation_each: int
    localizer_scans: int
    localizer_validation: int
    localizer_sketches: int
    localizer_epochs: int
    localizer_steps: int
    second_epochs: int
    second_steps: int
    weigher_epochs: int
    weigher_second_epochs: int
    weigher_steps: int
    regressor_epochs: int
    regressor_batch: int = regressor_training.BATCH
    regressor_channels: int = 32
    regressor_hidden: int = 256
    regressor_schedule: str = "constant"
    regressor_balanced: int = 0

    def regressor(self, experiment: str, target: str) -> RegressorConfig:
        """Return one of the paper's eight networks."""
        kernels, words = EXPERIMENTS[experiment]
        return RegressorConfig(
            target,
            log_target=words != "y",
            shared_kernels=kernels == "shared",
            channels=self.regressor_channels,
            hidden=self.regressor_hidden,
        )


RECIPES = {
    # Paper, section "Experiments": 772 scans to train and 386 to validate, 50 epochs.
    "paper": Recipe(
        simulated=772,
        validation=386,
        sketches=200,
        adverse=400,
        crowded=200,
        real_each=100,
        real_validation_each=10,
        localizer_scans=400,
        localizer_validation=60,
        localizer_sketches=400,
        localizer_epochs=20,
        localizer_steps=300,
        second_epochs=10,
        second_steps=300,
        weigher_epochs=40,
        weigher_second_epochs=20,
        weigher_steps=500,
        regressor_epochs=50,
    ),
    "small": Recipe(
        simulated=120,
        validation=40,
        sketches=40,
        adverse=40,
        crowded=20,
        real_each=24,
        real_validation_each=2,
        localizer_scans=40,
        localizer_validation=8,
        localizer_sketches=120,
        localizer_epochs=5,
        localizer_steps=60,
        second_epochs=3,
        second_steps=60,
        weigher_epochs=10,
        weigher_second_epochs=6,
        weigher_steps=60,
        regressor_epochs=8,
        regressor_channels=16,
        regressor_hidden=128,
        regressor_schedule="cosine",
        regressor_balanced=5,
    ),
    # What the bundled weigher was made with: half a day on two CPU cores.
    "bundled": Recipe(
        simulated=400,
        validation=90,
        sketches=120,
        adverse=240,
        crowded=108,
        real_each=32,
        real_validation_each=8,
        localizer_scans=110,
        localizer_validation=10,
        localizer_sketches=400,
        localizer_epochs=12,
        localizer_steps=150,
        second_epochs=4,
        second_steps=150,
        weigher_epochs=12,
        weigher_second_epochs=4,
        weigher_steps=400,
        regressor_epochs=3,
        regressor_channels=16,
        regressor_hidden=128,
        regressor_schedule="cosine",
        regressor_balanced=2,
    ),
    # Minutes: shows that everything runs and learns (make test-slow); not for use.
    "tiny": Recipe(
        simulated=8,
        validation=3,
        sketches=3,
        adverse=3,
        crowded=3,
        real_each=1,
        real_validation_each=0,
        localizer_scans=4,
        localizer_validation=2,
        localizer_sketches=4,
        localizer_epochs=2,
        localizer_steps=10,
        second_epochs=1,
        second_steps=10,
        weigher_epochs=3,
        weigher_second_epochs=1,
        weigher_steps=12,
        regressor_epochs=2,
        regressor_batch=50,
        regressor_channels=8,
        regressor_hidden=32,
        regressor_balanced=2,
    ),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One run of the recipes.

    Parameters
    ----------
    recipe
        How much.
    work
        Working folder: caches, checkpoints, curves, records.
    real
        Folder of real series with references, or None for simulated data only.
    own
        List of a site's own annotated scans (own_data.read_list), or None.
    hold_out
        Real series that stay out of all training.
    seed
        Of initial weights and drawing.
    device
        ``cpu`` or ``cuda``.
    processes
        That make data.
    resume
        Go on from checkpoints.
    progress
        Show bars.
    """

    recipe: Recipe
    work: Path
    real: Path | None = None
    own: Path | None = None
    hold_out: tuple[str, ...] = ()
    seed: int = 1
    device: str = "cpu"
    processes: int = 2
    resume: bool = True
    progress: bool = True

    @property
    def training_data(self) -> str:
        """What the manifest says of the data."""
        kinds = ["simulated", *(["real anatomy"] if self.real else []), *(["a site's own"] if self.own else [])]
        return " and ".join(kinds)


def make_data(job: Job, part: str) -> None:
    """Fill the caches that a part needs: ``heart`` (scorers) or ``localizer``."""
    recipe, how = job.recipe, {"processes": job.processes, "progress": job.progress}
    if part == "heart":
        if job.own is not None:
            for split, folder in (("training", "own"), ("validation", "own-validation")):
                scans = [(scan.name, scan) for scan in own_data.read_list(job.own) if scan.part == split]
                cache.fill(job.work / folder, own_data.case_of, scans, **how)  # type: ignore[arg-type]
        heart = dataset.tasks(1, recipe.simulated, "heart")
        cache.fill(job.work / "simulated", dataset.case_of, heart, **how)  # type: ignore[arg-type]
        crude = dataset.tasks(1, recipe.sketches, "heart", "sketch")
        cache.fill(job.work / "sketches", dataset.case_of, crude, **how)  # type: ignore[arg-type]
        adverse = dataset.tasks(1, recipe.adverse, "heart", "adverse")
        cache.fill(job.work / "adverse", dataset.case_of, adverse, **how)  # type: ignore[arg-type]
        crowded = dataset.tasks(1, recipe.crowded, "heart", "crowded")
        cache.fill(job.work / "crowded", dataset.case_of, crowded, **how)  # type: ignore[arg-type]
        held = dataset.tasks(VALIDATION_SEED, recipe.validation, "heart")
        cache.fill(job.work / "simulated-validation", dataset.case_of, held, **how)  # type: ignore[arg-type]
        if job.real is not None:
            made = dataset.real_tasks(job.real, 1, recipe.real_each)
            cache.fill(job.work / "real", dataset.real_case_of, made, **how)  # type: ignore[arg-type]
            held_real = dataset.real_tasks(job.real, REAL_VALIDATION_SEED, recipe.real_validation_each)
            cache.fill(job.work / "real-validation", dataset.real_case_of, held_real, **how)  # type: ignore[arg-type]
    else:
        whole = dataset.tasks(1, recipe.localizer_scans, "localizer")
        cache.fill(job.work / "localizer", dataset.case_of, whole, **how)  # type: ignore[arg-type]
        crude = dataset.tasks(1, recipe.localizer_sketches, "localizer", "sketch")
        cache.fill(job.work / "localizer-sketches", dataset.case_of, crude, **how)  # type: ignore[arg-type]
        held = dataset.tasks(VALIDATION_SEED, recipe.localizer_validation, "localizer")
        cache.fill(job.work / "localizer-validation", dataset.case_of, held, **how)  # type: ignore[arg-type]
        if job.real is not None:
            originals = dataset.original_tasks(job.real)
            cache.fill(job.work / "original", dataset.original_case_of, originals, **how)  # type: ignore[arg-type]


def regressor_cases(job: Job) -> Iterator[CachedCase]:
    """Yield what the paper's networks are trained on, without the held-out patients."""
    return _training_cases(job, "simulated")


def _training_cases(job: Job, *made: str) -> Iterator[CachedCase]:
    """Yield cases of the `made` folders, real anatomy and the site, without the held-out patients."""
    more = [*(["real"] if job.real is not None else []), *(["own"] if job.own is not None else [])]
    return _cached(job, (*made, *more))


def _cached(job: Job, folders: Iterable[str]) -> Iterator[CachedCase]:
    for folder in folders:
        yield from (case for case in cache.iterate(job.work / folder) if case.patient not in job.hold_out)


def validation_cases(job: Job) -> list[CachedCase]:
    """Return the validation cases of the scorers, without the held-out patients."""
    validation = cache.load_all(job.work / "simulated-validation")
    if job.real is not None:
        validation += cache.load_all(job.work / "real-validation")
    if job.own is not None:
        validation += cache.load_all(job.work / "own-validation")
    return dataset.without(validation, job.hold_out)


def folder_of(role: str, seed: int) -> str:
    """Return the folder of a ``localizer`` or ``weigher``; all seeds of one become an ensemble."""
    return f"train-{role}" if seed == 1 else f"train-{role}-{seed}"


def _folder(job: Job, role: str) -> str:
    """Return the folder of a training, apart for each choice of held-out patients."""
    return folder_of(role, job.seed) + "".join(f"-without-{patient}" for patient in job.hold_out)


def members(job: Job, role: str) -> list[str]:
    """Return the roles of the trained members of an ensemble: one for each seed.

    Without those that have patients held out, and those that another one began with (--start) and replaces.
    """
    trained_ = sorted(job.work.glob(f"train-{role}*/best.pt"))
    if not trained_:
        raise SettingsError(f"{job.work} holds no trained {role}: train {role} first")
    whole = [path for path in trained_ if "-without-" not in path.parent.name]
    notes = [path.with_name(STARTED_FROM) for path in whole]
    begun = {Path(note.read_text(encoding="utf-8")) for note in notes if note.is_file()}
    return [path.parent.name.removeprefix("train-") for path in whole if path.resolve() not in begun]


def localizer_scans(job: Job, *, real: bool) -> list[CoarseScan]:
    """Return what the localiser is trained on, without the held-out patients.

    Parameters
    ----------
    job
        What and where.
    real
        Real scans, too: as many of what is drawn as of the others.
    """
    scans = localizer_training.of_cache(cache.load_all(job.work / "localizer"))
    crude = localizer_training.of_cache(cache.load_all(job.work / "localizer-sketches"))
    scans += [replace(scan, share=SKETCH_SHARE * len(scans) / len(crude)) for scan in crude]
    if not real or job.real is None:
        return scans
    seen = localizer_training.of_cache(cache.load_all(job.work / "original"))
    boxes = job.real / "contrast-lowres"
    seen += localizer_training.of_boxes(boxes) if boxes.is_dir() else []
    seen += localizer_training.of_series(job.real)
    seen = [scan for scan in seen if scan.patient not in job.hold_out]
    weight = sum(scan.share for scan in scans)
    return [*scans, *(replace(scan, share=weight / len(seen)) for scan in seen)]


def train_localizer(job: Job) -> nn.ModuleDict:
    """Train the three slice classifiers: on simulated scans, then on real ones too at a lower rate.

    The first stage is the same whatever is held out; it is trained once for a seed.
    """
    make_data(job, "localizer")
    recipe = job.recipe
    validation = localizer_training.of_cache(cache.load_all(job.work / "localizer-validation"))
    stages = (
        (
            job.work / folder_of("localizer", job.seed) / "first",
            recipe.localizer_epochs,
            recipe.localizer_steps,
        ),
        (job.work / _folder(job, "localizer"), recipe.second_epochs, recipe.second_steps),
    )
    networks, start = nn.ModuleDict(), None
    for stage, (folder, epochs, steps) in enumerate(stages):
        networks, record = localizer_training.train(
            localizer_scans(job, real=stage == 1),
            validation,
            folder,
            loop=LoopOptions(
                epochs,
                learning_rate=LOCALIZER_RATES[stage],
                schedule="cosine",
                weight_decay=1e-4,
                average=0.98,
                seed=job.seed + stage * STAGE_SEEDS,
                device=job.device,
            ),
            options=localizer_training.LocalizerOptions(steps_per_epoch=steps),
            start=start,
            resume=job.resume,
            progress=job.progress,
        )
        logger.info("localiser, stage %d: %s", stage + 1, record["best"])
        start = dict(networks.state_dict())
    return networks


def weigher_cases(job: Job, *, real: bool) -> Iterator[CachedCase]:
    """Yield what the weigher is trained on; with `real` real anatomy and a site's too. None held out."""
    made = ("simulated", "sketches", "adverse", "crowded")
    return _training_cases(job, *made) if real else _cached(job, made)


def times_drawn(case: CachedCase) -> int:
    """Return how often the weigher is shown a case relative to others.

    Three times: sketches and crowded hearts, which stand for all scans that are unlike our simulator's. Twice:
    adverse scans, and much moved hearts with much calcium, whose arteries are torn.
    """
    if case.name.startswith(("sketch-", "crowded-")):
        return 3
    moved = float(case.description.get("motion_mm") or 0)
    torn = case.origin == "simulated" and case.agatston > TORN_AGATSTON and moved > TORN_MM
    return 2 if torn or case.name.startswith("adverse-") else 1


def start_of(name: str) -> dict[str, Tensor]:
    """Return the weights of a weigher to begin with: of a ``best.pt``, or of a set, as they were trained.

    Raises
    ------
    WeightsError
        Neither; a set without a weigher.
    """
    if name.endswith(".pt"):
        trained_: dict[str, Tensor] = torch.load(name, map_location="cpu", weights_only=True)
        return trained_
    members = load_weights(name, fuse=False).networks.get("weigher")
    if members is None:
        raise WeightsError(f"{name} has no weigher")
    network = members[0]
    assert isinstance(network, Weigher)
    return dict(weigher_training.blunted(network).state_dict())


def train_weigher(job: Job, start: str | None = None) -> tuple[Weigher, Calibration | None]:
    """Train the weigher, on simulated scans and then on real ones too at a lower rate, and calibrate it.

    The first stage is the same whatever is held out; it is trained once for a seed.

    Parameters
    ----------
    job
        What and where.
    start
        A ``best.pt`` or a set of weights to begin the second stage with, instead of the first stage.
    """
    make_data(job, "heart")
    validation = validation_cases(job)
    watched = validation[:: max(1, len(validation) // VALIDATED)]
    weights = None if start is None else start_of(start)
    if weights is None:
        first, _ = _weigher_stage(job, 0, watched, None)
        weights = dict(first.state_dict())
    network, record = _weigher_stage(job, 1, watched, weights)
    note = job.work / _folder(job, "weigher") / STARTED_FROM
    note.write_text(str(Path(start).resolve()) if start is not None else "", encoding="utf-8")
    logger.info("weigher: %s", record["best"])
    sharp = weigher_training.sharpened(network)
    return sharp, calibrate((sharp,), validation, job.device)


def _weigher_stage(
    job: Job, stage: int, validation: Sequence[CachedCase], start: dict[str, Tensor] | None
) -> tuple[Weigher, dict[str, Any]]:
    """Train one stage of the weigher: 0 on simulated scans alone, 1 with all that the job names."""
    recipe = job.recipe
    folder = job.work / (_folder(job, "weigher") if stage else f"{folder_of('weigher', job.seed)}/first")
    return weigher_training.train(
        weigher_cases(job, real=stage == 1),
        validation,
        folder,
        LoopOptions(
            recipe.weigher_second_epochs if stage else recipe.weigher_epochs,
            learning_rate=WEIGHER_RATES[stage],
            schedule="cosine",
            weight_decay=1e-4,
            clip_norm=1.0,
            average=0.995,
            # Simulated validation scans cannot tell which epoch is best for real ones (docs/decisions/0019).
            keep="best" if stage and job.own is not None else "last",
            seed=job.seed + stage * STAGE_SEEDS,
            device=job.device,
        ),
        weigher_training.WeigherOptions(
            steps_per_epoch=recipe.weigher_steps, real_share=REAL_SHARE, drawers=DRAWERS
        ),
        times=times_drawn,
        start=start,
        resume=job.resume,
        progress=job.progress,
    )


def calibrate(
    members: tuple[Weigher, ...], cases: Sequence[CachedCase], device: str = "cpu"
) -> Calibration | None:
    """Return the calibration of an ensemble of weighers on validation cases, or None where they are too few."""
    runner, predicted = Runner(torch.device(device)), []
    for case in cases:
        crop = heart_crop(CTVolume(case.hu, case.geometry, 3.0), case.raised_box(weigher_training.RISE_MM))
        with torch.inference_mode():
            credit = credit_map(crop.volume, crop.box)
            estimate = weigh({"weigher": members}, crop, credit, runner, heat_map=False)
        predicted.append(float(estimate.agatston.sum()) * INCREMENT_MM / AGATSTON_SLICE_MM)
    try:
        return fit([case.agatston for case in cases], predicted)
    except ValueError as error:
        logger.warning("no calibration: %s", error)
        return None


def train_regressors(
    job: Job, experiments: Sequence[str], targets: Sequence[str]
) -> dict[str, dict[str, Regressor]]:
    """Train some of the paper's eight networks: {experiment: {``agatston`` or ``volume``: network}}."""
    make_data(job, "heart")
    training = regressor_training.slices_of(regressor_cases(job))
    validation = regressor_training.slices_of(validation_cases(job))
    logger.info(
        "regressors: %d training slices, %d validation slices", len(training.scan), len(validation.scan)
    )
    networks: dict[str, dict[str, Regressor]] = {}
    for experiment in experiments:
        for target in targets:
            network, record = regressor_training.train(
                training,
                validation,
                job.work / f"train-{target}-{experiment}",
                config=job.recipe.regressor(experiment, target),
                loop=LoopOptions(
                    job.recipe.regressor_epochs,
                    seed=job.seed,
                    schedule=job.recipe.regressor_schedule,
                    device=job.device,
                    # On CPUs their few channels are twice as fast in float32 as in bfloat16.
                    mixed_precision=job.device != "cpu",
                ),
                batch=job.recipe.regressor_batch,
                balanced=job.recipe.regressor_balanced,
                resume=job.resume,
                progress=job.progress,
            )
            networks.setdefault(experiment, {})[target] = network
            logger.info("%s %s: %s", target, experiment, record["best"])
    return networks


def trained(job: Job, role: str, network: nn.Module) -> nn.Module:
    """Return `network` with the best weights of a finished training.

    Raises
    ------
    SettingsError
        That training has not run in this working folder.
    """
    path = job.work / f"train-{role}" / "best.pt"
    if not path.is_file():
        raise SettingsError(f"{path} is absent: train {role} first")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def export_all(job: Job, folder: Path, *, name: str, version: str) -> list[str]:
    """Write a set of weights for each finished scorer, and ``default.json`` where there is a weigher.

    Parameters
    ----------
    job
        Whose working folder holds the trainings.
    folder
        Gets one folder a set: `name`, and ``paper-i`` to ``paper-iv`` where both regressors are trained.
    name, version
        Of the set with the weigher.

    Returns
    -------
    list of str
        Names of the sets.
    """
    made = []
    if any("-without-" not in path.parent.name for path in job.work.glob("train-weigher*/best.pt")):
        weighers = []
        for role in members(job, "weigher"):
            network = trained(job, role, Weigher(weigher_training.NETWORK))
            assert isinstance(network, Weigher)
            weighers.append(weigher_training.sharpened(network))
        calibration = calibrate(tuple(weighers), validation_cases(job), job.device)
        scorer = {"weigher": tuple(weighers)}
        rise = {"rise_mm": weigher_training.RISE_MM}
        export(job, folder / name, scorer, name=name, version=version, calibration=calibration, localizer=rise)
        pointer = json.dumps({"folder": name}) + "\n"
        (folder / "default.json").write_text(pointer, encoding="utf-8")
        made.append(name)
    for experiment in EXPERIMENTS:
        roles = {target: f"{target}-{experiment}" for target in TARGETS}
        if not all((job.work / f"train-{role}" / "best.pt").is_file() for role in roles.values()):
            continue
        regressors: dict[str, tuple[nn.Module, ...]] = {}
        for target, role in roles.items():
            regressors[target] = (trained(job, role, Regressor(job.recipe.regressor(experiment, target))),)
        title = f"paper-{experiment}"
        export(job, folder / title, regressors, name=title, version=version)
        made.append(title)
    return made


def localizers(job: Job) -> dict[str, tuple[nn.Module, ...]]:
    """Return the members of the localiser's ensemble by axis: one for each seed that was trained.

    Where none was trained in this working folder, those of the default weights.
    """
    if not any(job.work.glob("train-localizer*/best.pt")):
        logger.info("no localiser was trained: that of the default weights is taken")
        bundled = load_weights(fuse=False).networks
        return {axis: bundled[axis] for axis in AXES}
    made = []
    for role in members(job, "localizer"):
        blank = nn.ModuleDict({axis: SliceClassifier(localizer_training.NETWORK) for axis in AXES})
        made.append(trained(job, role, blank))
    return {
        axis: tuple(networks[axis] for networks in made if isinstance(networks, nn.ModuleDict)) for axis in AXES
    }


def export(
    job: Job,
    folder: Path,
    scorer: Mapping[str, tuple[nn.Module, ...]],
    *,
    name: str,
    version: str,
    calibration: Calibration | None = None,
    figures: dict[str, Any] | None = None,
    localizer: dict[str, Any] | None = None,
) -> str:
    """Write a set of weights with this job's localisers and a scorer; return its sha256."""
    networks = localizers(job) | dict(scorer)
    return save_weights(
        folder,
        networks,
        name=name,
        version=version,
        training_data=job.training_data,
        date=datetime.now(UTC).date().isoformat(),
        attribution=ATTRIBUTION if job.real is not None else (),
        figures=(figures or {}) | {"seed": job.seed, "recipe": asdict(job.recipe)},
        localizer=localizer,
        calibration=calibration,
    )


# What the licences of the real series ask for ; changed: deformed, calcium inserted.
ATTRIBUTION = (
    "LIDC-IDRI-0002: LIDC-IDRI (TCIA), CC BY 3.0, changed",
    "normal001, cap002: COVID-CT-MD, CC BY 4.0, changed",
    "113: 4D-Lung (TCIA), CC BY 3.0, changed",
    "LSC-0055, LSC-0003, LSC-0049, LSC-0064, 01-0007: QIN LUNG CT (TCIA), CC BY 3.0, changed",
    "CT004: SPIE-AAPM Lung CT Challenge (TCIA), CC BY 3.0, changed",
    "LIDC-IDRI-0001: LIDC-IDRI (TCIA), CC BY 3.0, changed",
    "A0001: Lung-PET-CT-Dx (TCIA), CC BY 4.0, changed",
)


def write_record(folder: Path, values: dict[str, Any]) -> None:
    """Write a JSON record beside the weights or in the working folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=1, default=lambda value: np.asarray(value).tolist())
    (folder / "record.json").write_text(text + "\n", encoding="utf-8")


__all__ = [
    "RECIPES",
    "TARGETS",
    "Job",
    "Recipe",
    "calibrate",
    "export",
    "export_all",
    "make_data",
    "regressor_cases",
    "train_localizer",
    "train_regressors",
    "train_weigher",
    "trained",
    "write_record",
]
