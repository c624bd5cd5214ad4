"""`agatston train`: data, networks, calibration and a set of weights, from one command."""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import replace
from pathlib import Path

import torch

from calcium.configuration import home
from calcium.errors import SettingsError
from models.training import recipes
from models.training.evaluation import EXPERIMENTS

PARTS = ("all", "data", "localizer", "weigher", "regressor", "export")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "examples:\n"
        "  agatston train all --recipe paper --device cuda      the paper's data and epochs\n"
        "  agatston train all --recipe small                    what two CPU cores can do in some hours\n"
        "  agatston train regressor --experiment iii --score agatston --resume\n"
        "  agatston train weigher --own scans.csv --start agatston --epochs 4\n"
        "  agatston train weigher --real ../shared/ct --hold-out qin-lsc-0055"
    )
    parser.add_argument(
        "part", choices=PARTS, help="all: data, localizer, weigher, the eight regressors, export"
    )
    parser.add_argument("--recipe", choices=recipes.RECIPES, default="small", help="default: small")
    parser.add_argument(
        "--work", type=Path, help="caches, checkpoints, curves; default: AGATSTON_HOME/training"
    )
    parser.add_argument("--real", type=Path, metavar="DIR", help="folder of real series with references")
    parser.add_argument(
        "--hold-out", action="append", default=[], metavar="PATIENT", help="real series that trains nothing"
    )
    parser.add_argument("--experiment", choices=(*EXPERIMENTS, "all"), default="all", help="of the regressors")
    parser.add_argument("--score", choices=(*recipes.TARGETS, "all"), default="all", help="of the regressors")
    parser.add_argument(
        "--own", type=Path, metavar="LIST.csv", help="a site's own annotated scans (docs/training.md)"
    )
    parser.add_argument(
        "--start", metavar="WEIGHTS", help="fine-tune the weigher from a best.pt or a set of weights (agatston)"
    )
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that make data")
    parser.add_argument("--resume", action="store_true", help="go on from checkpoints")
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="where sets of weights go; default: WORK/weights"
    )
    parser.add_argument("--name", default="agatston", help="of the exported set")
    parser.add_argument("--set-version", default="1", help="of the exported set")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Train what was asked for."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    job = _job(args)
    if args.part in ("all", "data"):
        recipes.make_data(job, "heart")
        recipes.make_data(job, "localizer")
    if args.part in ("all", "localizer"):
        recipes.train_localizer(job)
    if args.part in ("all", "weigher"):
        recipes.train_weigher(job, args.start)
    if args.part in ("all", "regressor"):
        recipes.train_regressors(job, *_networks(args))
    if args.part in ("all", "export"):
        folder = args.export or job.work / "weights"
        for name in recipes.export_all(job, folder, name=args.name, version=args.set_version):
            print(folder / name)
    return 0


def _networks(args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the chosen experiments and scores."""
    experiments = tuple(EXPERIMENTS) if args.experiment == "all" else (args.experiment,)
    scores = recipes.TARGETS if args.score == "all" else (args.score,)
    return experiments, scores


def _job(args: argparse.Namespace) -> recipes.Job:
    recipe = recipes.RECIPES[args.recipe]
    if args.epochs is not None:
        if args.epochs < 1:
            raise SettingsError(f"--epochs must be at least 1, not {args.epochs}")
        recipe = replace(
            recipe,
            localizer_epochs=args.epochs,
            second_epochs=args.epochs,
            weigher_epochs=args.epochs,
            weigher_second_epochs=args.epochs,
            regressor_epochs=args.epochs,
        )
    if args.real is not None and not args.real.is_dir():
        raise SettingsError(f"--real names {args.real}, which is no folder")
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.processes < 1:
        raise SettingsError("--processes must be at least 1")
    return recipes.Job(
        recipe=recipe,
        work=(args.work or home() / "training").absolute(),
        real=args.real,
        own=args.own,
        hold_out=tuple(args.hold_out),
        seed=args.seed,
        device=device,
        processes=args.processes,
        resume=args.resume,
        progress=not args.quiet,
    )
