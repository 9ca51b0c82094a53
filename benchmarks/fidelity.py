"""Fidelity of the view morph on spins, against every baseline: a table with intervals, and a curve by angle.

python benchmarks/fidelity.py [DATASET…] [--svg FOLDER] [--json FILE] [--net vgg]

A dataset is `samples` (default) or a folder of spins with a `views.json` each. Eight photos are given, the others hidden: on
ETH-80 every other one, otherwise those nearest to 45-degree steps, scored at the photos nearest to the other 15-degree
steps. Both sides are cut out by u2netp and laid on white; photos that were each cropped to their own product are compared
by their boxes. Intervals are 95% bootstrap intervals over objects, never over frames.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gapray.capture.decode import decode_photo
from gapray.fidelity.baselines import BASELINES
from gapray.fidelity.comparison import Truth, compare, judge_comparison
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.score import OURS, FrameScore, Verdict
from gapray.fidelity.shown import Cut, cut_out
from gapray.fidelity.stats import bootstrap
from gapray.gap.package import GapPackage, GapView, Quality
from gapray.models.identity import ColourGradient
from gapray.models.load import load_mask
from gapray.models.mask import MaskModel
from gapray.orbit.conditions import build_conditions
from gapray.profile import Profile, load_profile
from gapray.report.polar import PolarPoint, polar_svg

SAMPLES = Path(__file__).resolve().parent.parent / "samples"


@dataclass(frozen=True)
class Spin:
    name: str
    group: str
    given: list[tuple[float, np.ndarray]]
    hidden: list[tuple[float, np.ndarray]]


def spins(dataset: str) -> Iterator[Spin]:
    if dataset == "samples":
        for folder in sorted((SAMPLES / "captures").iterdir()):
            photos = [
                [
                    (float(file.stem[-3:]), decode_photo(file.read_bytes()))
                    for file in sorted((SAMPLES / kind / folder.name).glob("*.jpg"))
                ]
                for kind in ("captures", "held_out")
            ]
            yield Spin(folder.name, "samples", *photos)
        return
    for folder in sorted(Path(dataset).iterdir()):
        if not (folder / "views.json").exists():
            continue
        frames = json.loads((folder / "views.json").read_text())["frames"]
        azimuths = np.array([frame["azimuth_deg"] for frame in frames])
        away = [np.abs((azimuths - 15 * step + 180) % 360 - 180) for step in range(24)]
        eth = folder.name.startswith("eth80")
        given = list(range(0, len(frames), 2)) if eth else [int(away[step].argmin()) for step in range(0, 24, 3)]
        hidden = list(range(1, len(frames), 2)) if eth else [int(away[step].argmin()) for step in range(24) if step % 3]
        photos = [
            [(float(azimuths[i]), decode_photo((folder / frames[i]["file"]).read_bytes())) for i in chosen]
            for chosen in (given, hidden)
        ]
        yield Spin(folder.name, "ETH-80" if eth else "product spins", *photos)


def package_of(name: str, cuts: list[Cut]) -> GapPackage:
    """A package with only what geometry and scoring need: photos, masks and azimuths."""
    views = tuple(
        GapView(
            name=f"{cut.azimuth_deg:g}",
            azimuth_deg=cut.azimuth_deg,
            uri="",
            sha256="",
            reference=cut.image,
            mask=cut.mask,
            depth=np.zeros(cut.mask.shape, np.uint16),
            canny=np.zeros(cut.mask.shape, np.uint8),
            identity=np.zeros(517, np.float32),
            quality=Quality(0.0, 0.0, 0.0),
        )
        for cut in cuts
    )
    return GapPackage(name, "", views, 1.0, 0.0, {"depth": "hull@2"})


def scored(spin: Spin, network: MaskModel, metric: Lpips, profile: Profile) -> tuple[list[FrameScore], list[Verdict]]:
    mask = profile.packaging.mask
    cuts = cut_out([photo for _, photo in spin.given], [azimuth for azimuth, _ in spin.given], network, mask)
    package = package_of(spin.name, sorted(cuts, key=lambda cut: cut.azimuth_deg))
    azimuths = [azimuth for azimuth, _ in spin.hidden]
    conditions = build_conditions(package, profile.orbit, azimuths_deg=azimuths)
    comparison = compare(
        package,
        conditions.initial,
        azimuths,
        network,
        truths=[Truth(azimuth, photo) for azimuth, photo in spin.hidden],
        orbit=profile.orbit,
        mask=mask,
        settings=profile.fidelity,
        shifted=conditions.calibration.shifted,
    )
    return judge_comparison(comparison, metric, ColourGradient(), profile.fidelity)


def curves(scores: dict[str, list[FrameScore]]) -> dict[str, list[PolarPoint]]:
    """LPIPS by angle of each label: means over objects in 7.5-degree bins."""
    by_label: dict[str, dict[float, list[float]]] = {}
    for score in (score for listed in scores.values() for score in listed):
        bins = by_label.setdefault(score.label, {})
        bins.setdefault(round(score.azimuth_deg / 7.5) * 7.5 % 360, []).append(score.lpips)
    return {
        label: [PolarPoint(azimuth, float(np.mean(values)), False) for azimuth, values in bins.items()]
        for label, bins in by_label.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("datasets", nargs="*", default=["samples"])
    parser.add_argument("--svg", type=Path, help="folder for a curve by angle of each group")
    parser.add_argument("--json", type=Path, help="all verdicts, for machines")
    parser.add_argument("--net", choices=["alex", "vgg"], default="alex")
    chosen = parser.parse_args()
    profile = load_profile(
        "classic", overrides=[f"fidelity.net={chosen.net}", "fidelity.native=false", "orbit.size=256"], environment={}
    )
    network, metric = load_mask(profile.packaging, threads=2), Lpips(chosen.net)
    print(f"{metric.name}; {profile.fidelity.size} px on white, area; masks u2netp, both sides alike")
    groups: dict[str, dict[str, list[Verdict]]] = {}
    angles: dict[str, dict[str, list[FrameScore]]] = {}
    for dataset in chosen.datasets:
        for spin in spins(dataset):
            scores, verdicts = scored(spin, network, metric, profile)
            groups.setdefault(spin.group, {})[spin.name] = verdicts
            angles.setdefault(spin.group, {})[spin.name] = scores
            line = ", ".join(f"{verdict.label} {verdict.lpips:.3f}" for verdict in verdicts)
            print(f"  {spin.name}: {line}", flush=True)
    print("\n| set | method | objects | LPIPS (95%) | / nearest view | better on | PSNR | SSIM | IoU |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for group, members in groups.items():
        nearest = {name: _of(verdicts, "nearest view").lpips for name, verdicts in members.items()}
        for label in (OURS, *BASELINES):
            own = {name: _of(verdicts, label) for name, verdicts in members.items()}
            spread = bootstrap([verdict.lpips for verdict in own.values()])
            ratio = spread.mean / np.mean(list(nearest.values()))
            better = sum(verdict.lpips < nearest[name] for name, verdict in own.items())
            rest = [np.mean([getattr(verdict, field) for verdict in own.values()]) for field in ("psnr", "ssim", "iou")]
            print(
                f"| {group} | {label} | {spread.count} | {spread.mean:.3f} ({spread.low:.3f} – {spread.high:.3f}) "
                f"| {ratio:.2f} | {better} | {rest[0]:.1f} | {rest[1]:.3f} | {rest[2]:.3f} |"
            )
        if chosen.svg:
            chosen.svg.mkdir(parents=True, exist_ok=True)
            path = chosen.svg / f"lpips_{group.replace(' ', '_').lower()}.svg"
            path.write_text(polar_svg(curves(angles[group]), title=f"LPIPS by angle, {group}"))
    if chosen.json:
        table = {
            group: {name: [asdict(verdict) for verdict in listed] for name, listed in members.items()}
            for group, members in groups.items()
        }
        chosen.json.write_text(json.dumps(table, indent=1))


def _of(verdicts: list[Verdict], label: str) -> Verdict:
    return next(verdict for verdict in verdicts if verdict.label == label)


if __name__ == "__main__":
    main()
