"""``agatston phantom``: write simulated scans as DICOM series with known reference scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from calcium.errors import SettingsError
from calcium.risk import RiskGroup
from models.training.phantom import PhantomConfig, make_many, write_dicom, write_reference
from models.training.phantom.dicom import TRANSFER_SYNTAXES
from models.training.phantom.plaques import BURDEN

if TYPE_CHECKING:
    import argparse


def _calcium(text: str) -> str | float:
    """Read ``--agatston``: a name, or a score to aim at."""
    name = text.lower().replace("-", " ").replace("_", " ")
    if name in ("auto", "none", *BURDEN):
        return name
    try:
        wanted = float(text)
    except ValueError as error:
        raise SettingsError(
            f"--agatston takes auto, none, {', '.join(BURDEN)} or a number, not {text}"
        ) from error
    if not 0 <= wanted <= 10_000:
        raise SettingsError(f"--agatston takes a score from 0 to 10000, not {text}")
    return wanted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder; each scan gets a folder in it")
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the first scan; the next has the next seed"
    )
    parser.add_argument("--count", type=int, default=1, help="number of scans")
    parser.add_argument(
        "--agatston", default="auto", help=f"auto, none, {', '.join(BURDEN)}, or a score to aim at"
    )
    parser.add_argument("--thickness", type=float, help="slice thickness, mm; drawn by default")
    parser.add_argument("--shifted", action="store_true", help="other body shapes, noise, kernels and calcium")
    parser.add_argument(
        "--contrast", action="store_true", help="contrast-enhanced blood (such scans are not eligible)"
    )
    parser.add_argument("--cardiac", action="store_true", help="small field of view, heart alone")
    parser.add_argument("--coverage", choices=("chest", "neck_to_abdomen", "heart"), default=None)
    parser.add_argument("--size", type=int, default=512, help="rows and columns")
    parser.add_argument("--transfer-syntax", choices=tuple(TRANSFER_SYNTAXES), default="explicit")
    parser.add_argument("--processes", type=int, default=1, help="scans made at a time")


def run(args: argparse.Namespace) -> int:
    """Write the scans, one line for each; return the exit code."""
    if args.count < 1 or args.seed < 0 or not 16 <= args.size <= 2048:
        raise SettingsError("--count must be at least 1, --seed at least 0 and --size between 16 and 2048")
    if args.thickness is not None and not 0.5 <= args.thickness <= 10:
        raise SettingsError("--thickness must be between 0.5 and 10 mm")
    config = PhantomConfig(
        distribution="shifted" if args.shifted else "training",
        field_of_view="cardiac" if args.cardiac else "chest",
        z_coverage=args.coverage or ("heart" if args.cardiac else "chest"),
        contrast=args.contrast,
        in_plane=args.size,
        calcium=_calcium(args.agatston),
        thickness_mm=args.thickness,
    )
    seeds = range(args.seed, args.seed + args.count)
    for scan in make_many(seeds, config=config, processes=args.processes):
        folder = args.out / f"phantom-{scan.seed}"
        paths = write_dicom(scan, folder, transfer_syntax=args.transfer_syntax)
        write_reference(scan, folder)
        group = RiskGroup.of(scan.agatston).label
        print(
            f"{folder}: {len(paths)} slices of {scan.volume.slice_thickness_mm:g} mm, "
            f"Agatston {scan.agatston:.1f} ({group}), volume {scan.volume_mm3:.1f} mm3",
            flush=True,
        )
    return 0
