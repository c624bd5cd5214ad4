"""`agatston evaluate`: the paper's tables, and more, from any set of scans with references."""

from __future__ import annotations

import argparse
import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from calcium.configuration import home
from calcium.errors import AgatstonError, SettingsError
from models.device import Runner
from models.options import DEVICES, ScoringOptions
from models.scoring import Scorer
from models.training import attention_pictures, cache, dataset, evaluation_scans, own_data
from models.training.evaluation_report import DEFAULT, write
from models.training.processes import pool
from models.weightset import bundled, load_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")
Found = TypeVar("Found")

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--simulated", type=int, metavar="N", help="N simulated heart crops (kept in WORK)")
    parser.add_argument("--whole", type=int, metavar="N", help="N whole simulated scans, heart box included")
    parser.add_argument(
        "--localizer", type=int, metavar="N", help="heart boxes of N simulated scans of all coverages"
    )
    parser.add_argument("--shifted", action="store_true", help="simulate another distribution than training's")
    parser.add_argument("--folder", type=Path, help="series on disk, each with reference/reference.json")
    parser.add_argument("--own", type=Path, metavar="LIST.csv", help="a site's own scans (docs/training.md)")
    parser.add_argument(
        "--part", choices=(*own_data.PARTS, "all"), default="test", help="of the site's scans; default: test"
    )
    parser.add_argument("--cache", type=Path, help="a folder of cached cases")
    parser.add_argument("--weights", help="a folder or a bundled set; default: AGATSTON_WEIGHTS")
    parser.add_argument("--all-networks", action="store_true", help="every bundled set in the tables, too")
    parser.add_argument(
        "--pictures", type=int, default=4, metavar="N", help="scans in the picture of attention; default: 4"
    )
    parser.add_argument(
        "--seed", type=int, default=evaluation_scans.EVALUATION_SEED, help="first simulated seed"
    )
    parser.add_argument("--device", choices=DEVICES, help="default: AGATSTON_DEVICE, else auto")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that simulate and score")
    parser.add_argument("--work", type=Path, help="default: AGATSTON_HOME/training")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), help="folder of the report")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Score the scans and write the report; return 0, or 1 when a real series is scored wrong."""
    if not (args.simulated or args.whole or args.localizer or args.folder or args.cache or args.own):
        raise SettingsError(
            "nothing to evaluate: give --simulated, --whole, --localizer, --folder, --own or --cache"
        )
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
    if args.localizer:
        _localizer(args, options)
    if args.own:
        _own(args, options)
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
    locations = {DEFAULT: options.weights}
    if args.all_networks:
        locations |= {name.removeprefix("paper-"): name for name in bundled() if name.startswith("paper-")}
    one = partial(
        evaluation_scans.score_cached,
        sets=tuple(locations.items()),
        options=_alone(args, options),
        default=DEFAULT,
    )
    records = _everywhere(args, one, paths, "scoring")
    print(write(records, args.out, title).read_text(encoding="utf-8"))
    shown = attention_pictures.chosen(paths, records, args.pictures)
    if shown:
        cases = [cache.load(path) for path in shown]
        sets = {name: load_weights(location) for name, location in locations.items()}
        runner = Runner(options.torch_device, options.batch)
        attention_pictures.write_pictures(cases, sets, runner, args.out / "attention.png")


def _whole(args: argparse.Namespace, options: ScoringOptions) -> None:
    """Score whole simulated scans as the node would."""
    one = partial(
        evaluation_scans.score_whole, options=_alone(args, options), name=DEFAULT, shifted=args.shifted
    )
    found = _everywhere(args, one, range(args.seed, args.seed + args.whole), "whole")
    words = "shifted" if args.shifted else "training"
    title = f"{len(found)} whole simulated scans, {words} distribution, with localiser"
    path = write([record for record, _ in found], args.out / "whole", title)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + evaluation_scans.box_table([error for _, error in found]))
    print(path.read_text(encoding="utf-8"))


def _localizer(args: argparse.Namespace, options: ScoringOptions) -> None:
    """Find the hearts of simulated scans of all coverages."""
    one = partial(evaluation_scans.locate_whole, options=_alone(args, options), shifted=args.shifted)
    found = _everywhere(args, one, range(args.seed, args.seed + args.localizer), "localizer")
    table = (
        evaluation_scans.kinds_table(found) + "\n" + evaluation_scans.box_table([error for _, error in found])
    )
    (args.out / "localizer.md").write_text(table, encoding="utf-8")
    print(table)


def _own(args: argparse.Namespace, options: ScoringOptions) -> None:
    """Score a site's own scans with localiser and scorer."""
    scans = [scan for scan in own_data.read_list(args.own) if args.part in (scan.part, "all")]
    if not scans:
        raise SettingsError(f"{args.own} lists no scans for {args.part}")
    scorer = Scorer.load(options)
    records = []
    for scan in tqdm(scans, desc="own", disable=args.quiet, mininterval=5):
        try:
            records.append(own_data.record_of(scan, scorer, DEFAULT))
        except AgatstonError as error:  # one scan must not end the evaluation
            logger.warning("%s: %s", scan.name, error)
    failed = [record for record in records if not record.predicted_agatston]
    path = write(records, args.out / "own", f"{len(records)} scans of the site, {args.part}")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\nNot readable: {len(scans) - len(records)}. Without a score: {len(failed)}.\n")
        file.writelines(f"- {record.name}: {record.description['failure']}\n" for record in failed)
    print(path.read_text(encoding="utf-8"))


def _alone(args: argparse.Namespace, options: ScoringOptions) -> ScoringOptions:
    """Return options with one thread where several processes score."""
    return replace(options, threads=1) if args.processes > 1 else options


def _everywhere(
    args: argparse.Namespace, one: Callable[[Item], Found], items: Sequence[Item], words: str
) -> list[Found]:
    """Return what `one` gives for each item, computed in several processes."""
    with pool(args.processes) as scorers:
        found = scorers.map(one, items)
        return list(tqdm(found, total=len(items), desc=words, disable=args.quiet, mininterval=5))


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
