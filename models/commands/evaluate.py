"""`agatston evaluate`: the paper's tables, and more, from any set of scans with references."""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from calcium.configuration import home
from calcium.errors import SettingsError
from models.device import Runner
from models.options import DEVICES, ScoringOptions
from models.scoring import Scorer
from models.training import cache, dataset, evaluation_scans
from models.training.evaluation_report import DEFAULT, write
from models.training.statistics import wilson
from models.weightset import bundled, load_weights

if TYPE_CHECKING:
    from models.training.evaluation import ScanRecord

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--simulated", type=int, metavar="N", help="N simulated heart crops (kept in WORK)")
    parser.add_argument("--whole", type=int, metavar="N", help="N whole simulated scans, heart box included")
    parser.add_argument("--shifted", action="store_true", help="simulate another distribution than training's")
    parser.add_argument("--folder", type=Path, help="series on disk, each with reference/reference.json")
    parser.add_argument("--cache", type=Path, help="a folder of cached cases")
    parser.add_argument("--weights", help="a folder or a bundled set; default: AGATSTON_WEIGHTS")
    parser.add_argument("--all-networks", action="store_true", help="every bundled set in the tables, too")
    parser.add_argument(
        "--seed", type=int, default=evaluation_scans.EVALUATION_SEED, help="first simulated seed"
    )
    parser.add_argument("--device", choices=DEVICES, help="default: AGATSTON_DEVICE, else auto")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that simulate")
    parser.add_argument("--work", type=Path, help="default: AGATSTON_HOME/training")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), help="folder of the report")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Score the scans and write the report; return 0, or 1 when a real series is scored wrong."""
    if not (args.simulated or args.whole or args.folder or args.cache):
        raise SettingsError("nothing to evaluate: give --simulated, --whole, --folder or --cache")
    options = ScoringOptions.read()
    options = replace(
        options, weights=args.weights or options.weights, device=args.device or options.device, heat_map=False
    )
    args.out.mkdir(parents=True, exist_ok=True)
    wrong = 0
    if args.simulated or args.cache:
        _crops(args, options)
    if args.whole:
        _whole(args, options)
    if args.folder:
        wrong = _folder(args, options)
    return 1 if wrong else 0


def _crops(args: argparse.Namespace, options: ScoringOptions) -> None:
    """Score cached heart crops with all chosen networks."""
    words = "shifted" if args.shifted else "training"
    if args.cache:
        paths, title = sorted(args.cache.glob("[!.]*.npz")), f"cached cases of {args.cache.name}"
    else:
        folder = (args.work or home() / "training") / f"evaluation-{words}"
        tasks = dataset.tasks(args.seed, args.simulated, "heart", "shifted" if args.shifted else "training")
        cache.fill(folder, dataset.case_of, tasks, processes=args.processes, progress=not args.quiet)
        paths = [folder / f"{name}.npz" for name, _ in tasks]
        title = f"{len(paths)} simulated heart crops, {words} distribution, reference boxes off by 3 mm"
    sets = {DEFAULT: load_weights(options.weights)}
    if args.all_networks:
        sets |= {
            name.removeprefix("paper-"): load_weights(name) for name in bundled() if name.startswith("paper-")
        }
    runner = Runner(options.torch_device, options.batch)
    records = [
        evaluation_scans.score_case(cache.load(path), sets, runner, default=DEFAULT, with_attention=True)
        for path in tqdm(paths, desc="scoring", disable=args.quiet, mininterval=5)
    ]
    print(write(records, args.out, title).read_text(encoding="utf-8"))


def _whole(args: argparse.Namespace, options: ScoringOptions) -> None:
    """Score whole simulated scans as the node would."""
    scorer = Scorer.load(options)
    records: list[ScanRecord] = []
    overlaps = []
    for seed in tqdm(range(args.seed, args.seed + args.whole), desc="whole", disable=args.quiet, mininterval=5):
        record, iou = evaluation_scans.score_whole(seed, scorer, DEFAULT, shifted=args.shifted)
        records.append(record)
        overlaps.append(iou)
    words = "shifted" if args.shifted else "training"
    title = f"{len(records)} whole simulated scans, {words} distribution, with localiser"
    path = write(records, args.out / "whole", title)
    found = wilson(sum(iou > 0 for iou in overlaps), len(overlaps))
    line = f"\nHeart found: {found}; IoU of the heart box: median {np.median(overlaps):.3f}, "
    line += f"lowest {np.min(overlaps):.3f}.\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
    print(path.read_text(encoding="utf-8"))


def _folder(args: argparse.Namespace, options: ScoringOptions) -> int:
    """Score real series and return how many are wrong."""
    scorer = Scorer.load(options)
    folders = sorted(path.parent.parent for path in args.folder.glob("**/reference/reference.json"))
    if not folders:
        raise SettingsError(f"{args.folder} holds no series with reference/reference.json")
    results = [evaluation_scans.score_folder(folder, scorer) for folder in folders]
    table = evaluation_scans.real_table(results)
    (args.out / "real.md").write_text(table, encoding="utf-8")
    print(table)
    return sum(not result.right for result in results)
