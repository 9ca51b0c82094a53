"""Measure how well `gapray capture check` finds what is wrong with photos, on the real photo sets of a SPINS folder.

    python benchmarks/check.py angles SPINS [--seed 7] [--part 0/1] [--to cases.jsonl] [--only NAME …]
    python benchmarks/check.py quality SPINS
    python benchmarks/check.py odd SPINS SCANS …           false alarms and finds of `gapray.inspect.odd`
    python benchmarks/check.py table cases.jsonl …        the table of one or more runs of `angles`

`angles`: eight photos of each set (nearest to 45-degree steps) unchanged, from several starts; then with two exchanged, with one
mirrored, with one taken 20 degrees (22.5 on ETH-80) off its angle, all in reverse order, and with one duplicated (saved again at
JPEG quality 60 and half the size). `quality`: the same photos degraded by known amounts. Masks come from the network, as always.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gapray.capture.angles import angle_difference
from gapray.capture.decode import decode_photo
from gapray.capture.settings import DecodeSettings
from gapray.errors import InputError
from gapray.inspect.check import Assessment, assess
from gapray.inspect.duplicates import difference, fingerprint
from gapray.inspect.odd import find_outliers
from gapray.inspect.quality import measure_quality
from gapray.models.load import load_mask
from gapray.packaging.silhouette import silhouette
from gapray.profile import load_profile
from gapray.resample import cropped

PROFILE = load_profile("classic")
PLACES = ("azimuth.swapped", "azimuth.off", "azimuth.mirrored", "azimuth.duplicate", "azimuth.misfit")
OWN_MIRROR = 0.87
"""A photo whose mask equals its own mirror image to this IoU cannot be told from a mirrored one by its outline."""


class Photos:
    """Photos, masks and azimuths of one set; each photo's mask is computed once."""

    def __init__(self, folder: Path, network: Any) -> None:
        self.name, self._network = folder.name, network
        frames = json.loads((folder / "views.json").read_text())["frames"]
        self.azimuths = np.array([float(frame["azimuth_deg"]) for frame in frames])
        self._files = [folder / frame["file"] for frame in frames]
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.true = folder.name.startswith("eth80")

    def at(self, azimuth: float) -> int:
        return int(np.abs(angle_difference(self.azimuths, azimuth)).argmin())

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index not in self._kept:
            photo = decode_photo(self._files[index].read_bytes(), DecodeSettings(reference_side=1024))
            self._kept[index] = photo, self.mask(photo)
        return self._kept[index]

    def mask(self, photo: np.ndarray) -> np.ndarray:
        [soft] = self._network.predict([photo])
        return silhouette(photo, soft, PROFILE.packaging.mask)

    def eight(self, start: float = 0.0) -> list[int]:
        return [self.at(start + 45.0 * step) for step in range(8)]


def judged(photos: Sequence[tuple[np.ndarray, np.ndarray]], azimuths: Sequence[float]) -> Assessment:
    names = [f"{index}" for index in range(len(photos))]
    images, masks = zip(*photos, strict=True)
    return assess(names, images, masks, [float(azimuth) % 360 for azimuth in azimuths], PROFILE.check)


def own_mirror(mask: np.ndarray) -> bool:
    columns = np.flatnonzero((mask >= 128).any(0))
    shape = mask[:, columns[0] : columns[-1] + 1] >= 128
    mirrored = shape[:, ::-1]
    return float((shape & mirrored).sum() / (shape | mirrored).sum()) > OWN_MIRROR


def angle_cases(photos: Photos, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    off = 22.5 if photos.true else 20.0
    starts = (0.0, 22.5) if photos.true else (0.0, 20.0, -20.0)
    for start in starts:
        chosen = photos.eight(start)
        yield {
            "kind": "clean",
            "photos": [photos[index] for index in chosen],
            "said": photos.azimuths[chosen],
            "bad": [],
        }
    chosen = photos.eight()
    said = photos.azimuths[chosen]
    plain = [photos[index] for index in chosen]
    pairs = [(a, b) for a in range(8) for b in range(a)]
    for place in rng.choice(len(pairs), 2, replace=False):
        a, b = pairs[place]
        swapped = list(plain)
        swapped[a], swapped[b] = swapped[b], swapped[a]
        yield {"kind": "swapped", "photos": swapped, "said": said, "bad": [a, b]}
    for a in rng.choice(8, 2, replace=False):
        kind = "mirrored, own mirror image" if own_mirror(plain[a][1]) else "mirrored"
        flipped = [tuple(np.ascontiguousarray(x[:, ::-1]) for x in plain[a]) if i == a else plain[i] for i in range(8)]
        yield {"kind": kind, "photos": flipped, "said": said, "bad": [int(a)]}
    for a in rng.choice(8, 2, replace=False):
        moved = photos.at(said[a] + off * rng.choice([-1, 1]))
        yield {
            "kind": "off",
            "photos": [photos[moved] if i == a else plain[i] for i in range(8)],
            "said": said,
            "bad": [int(a)],
        }
    yield {"kind": "reversed", "photos": plain, "said": -said, "bad": []}
    a, b = (int(index) for index in rng.choice(8, 2, replace=False))
    yield {"kind": "doubled", "photos": [again(photos, plain[a][0]) if i == b else plain[i] for i in range(8)], "said": said, "bad": [a, b]}  # fmt: skip


def again(photos: Photos, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Save at quality 60 and half the size, then enlarge again so that the size does not give the copy away."""
    half = cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", half, [cv2.IMWRITE_JPEG_QUALITY, 60])
    copy = cv2.resize(cv2.imdecode(data, 1), photo.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return copy, photos.mask(copy)


def angles(spins: Path, seed: int, part: tuple[int, int], to: Path, only: Sequence[str], kinds: Sequence[str]) -> None:
    network = load_mask(PROFILE.packaging, threads=1)
    folders = [folder for folder in sorted(spins.iterdir()) if (folder / "views.json").exists()]
    with to.open("a") as sink:
        for folder in folders[part[0] :: part[1]]:
            if only and folder.name not in only:
                continue
            photos, rng = Photos(folder, network), np.random.default_rng([seed, *folder.name.encode()])
            for case in angle_cases(photos, rng):
                if kinds and case["kind"] not in kinds:
                    continue
                started = time.monotonic()
                found = judged(case["photos"], case["said"])
                row = {
                    "set": folder.name,
                    "kind": case["kind"],
                    "bad": [int(index) for index in case["bad"]],
                    "direction": found.arrangement.direction if found.arrangement else 0,
                    "observable": bool(found.arrangement and found.arrangement.observable),
                    "findings": [
                        [item.code, [int(name) for name in item.files], item.message] for item in found.findings
                    ],
                    "arranged": [int(index) for index in found.arranged],
                    "azimuths": found.arrangement.azimuths_deg if found.arrangement else [],
                    "said": [float(azimuth) for azimuth in case["said"]],
                    "told": found.arrangement.determined if found.arrangement else [],
                    "sure": found.arrangement.confident if found.arrangement else [],
                    "fitting": found.arrangement.fitting if found.arrangement else [],
                    "scales": found.arrangement.scales if found.arrangement else [],
                    "costs": [found.arrangement.named_cost, found.arrangement.cost] if found.arrangement else [],
                    "seconds": round(time.monotonic() - started, 1),
                }
                sink.write(json.dumps(row) + "\n")
                sink.flush()
            print(folder.name, flush=True)


def interval(hits: Sequence[bool]) -> str:
    """Mean and its 95 % bootstrap interval, as text."""
    if not hits:
        return "—"
    rng = np.random.default_rng(0)
    drawn = np.asarray(hits, float)[rng.integers(0, len(hits), (2000, len(hits)))].mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{np.mean(hits):.0%} ({low:.0%}–{high:.0%}) of {len(hits)}"


def table(files: Sequence[Path]) -> None:
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    names = sorted({row["set"] for row in rows})
    clean: dict[str, list[dict[str, Any]]] = {
        name: [r for r in rows if r["set"] == name and r["kind"] == "clean"] for name in names
    }
    seen = [name for name in names if all(row["observable"] for row in clean[name])]
    usual = {
        name: max((row["direction"] for row in clean[name]), key=[row["direction"] for row in clean[name]].count)
        for name in names
    }

    def hit(row: dict[str, Any]) -> bool:
        flagged = {file for code, files, _ in row["findings"] if code in PLACES for file in files}
        if row["kind"] == "clean":
            return not flagged and row["direction"] == usual[row["set"]]
        if row["kind"] == "reversed":
            return row["direction"] == -usual[row["set"]]
        if row["kind"] == "doubled":
            return any(
                code == "azimuth.duplicate" and sorted(files) == sorted(row["bad"])
                for code, files, _ in row["findings"]
            )
        return set(row["bad"]) <= flagged

    kinds = ("clean", "swapped", "mirrored", "mirrored, own mirror image", "off", "reversed", "doubled")
    print("| set | observable | " + " | ".join(kinds) + " |\n| --- | --- |" + " --- |" * len(kinds))
    for name in names:
        cells = []
        for kind in kinds:
            hits = [hit(row) for row in rows if row["set"] == name and row["kind"] == kind]
            cells.append(f"{sum(hits)}/{len(hits)}" if hits else "")
        print(f"| {name} | {'yes' if name in seen else 'no'} | " + " | ".join(cells) + " |")
    print()
    for kind in kinds:
        print(f"{kind}: observable {interval([hit(r) for r in rows if r['kind'] == kind and r['set'] in seen])}, "
              f"others {interval([hit(r) for r in rows if r['kind'] == kind and r['set'] not in seen])}")  # fmt: skip
    flagged = [
        any(place in files for code, files, _ in row["findings"] if code in PLACES)
        for row in rows if row["kind"] == "clean" and row["set"] in seen
        for place in range(8)
    ]  # fmt: skip
    print(f"false alarms a photo: {interval(flagged)}")
    print(
        f"seconds a set: median {np.median([row['seconds'] for row in rows]):.1f}, most {max(row['seconds'] for row in rows):.1f}"
    )


def degraded() -> dict[str, tuple[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]]]:
    """Name -> code that must be found, and how a photo is changed. Amounts are for a product of 512 pixels."""

    def blurred(sigma: float) -> Callable[..., np.ndarray]:
        return lambda photo, mask, rng: cv2.GaussianBlur(photo, (0, 0), sigma * longer(mask) / 512)

    def exposed(stops: float) -> Callable[..., np.ndarray]:
        def change(photo: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            light = np.where(photo <= 10, photo / 3294.6, ((photo / 255 + 0.055) / 1.055) ** 2.4) * 2**stops
            return (255 * np.clip(1.055 * np.clip(light, 0, 1) ** (1 / 2.4) - 0.055, 0, 1)).round().astype(np.uint8)

        return change

    def tinted(photo: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        light = (photo / 255.0) ** 2.2 * np.array([1.2, 1.0, 0.83])
        return (255 * np.clip(light, 0, 1) ** (1 / 2.2)).round().astype(np.uint8)

    def scaled(factor: float) -> Callable[..., np.ndarray]:
        def change(photo: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            height, width = photo.shape[:2]
            middle, reach = np.array([width, height]) / 2, np.array([width, height]) / (2 * factor)
            (left, upper), (right, lower) = middle - reach, middle + reach
            return cropped(photo, (left, right, upper, lower), (height, width), outside=None)

        return change

    def shifted(photo: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        columns = np.flatnonzero((mask >= 128).any(0))
        by = (
            photo.shape[1] - columns[-1] + 0.12 * (columns[-1] - columns[0])
        )  # an eighth of the product leaves the picture
        matrix = np.array([[1.0, 0, by], [0, 1.0, 0]])
        return cv2.warpAffine(photo, matrix, photo.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)

    def cluttered(photo: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        full = photo.copy()
        size = longer(mask)
        for _ in range(60):
            x, y = rng.integers(0, photo.shape[1]), rng.integers(0, photo.shape[0])
            w, h = rng.integers(size // 20, size // 4, 2)
            cv2.rectangle(full, (int(x), int(y)), (int(x + w), int(y + h)), rng.integers(0, 255, 3).tolist(), -1)
        wide = cv2.dilate(mask, np.ones((5, 5), np.uint8)) >= 25
        return np.where(wide[..., None], photo, full)

    return {
        "blur 2 px": ("photo.blurred", blurred(2.0)),
        "blur 4 px": ("photo.blurred", blurred(4.0)),
        "+1.5 stops": ("photo.exposure_drift", exposed(1.5)),
        "-1.5 stops": ("photo.exposure_drift", exposed(-1.5)),
        "red +20 %, blue -17 %": ("photo.white_balance", tinted),
        "15 % larger": ("photo.scale", scaled(1.15)),
        "15 % smaller": ("photo.scale", scaled(0.85)),
        "an eighth out of the picture": ("photo.cut", shifted),
        "things behind it": ("photo.clutter", cluttered),
    }


def longer(mask: np.ndarray) -> int:
    rows, columns = np.nonzero(mask >= 128)
    return int(max(np.ptp(rows), np.ptp(columns)) + 1)


def quality(spins: Path, seed: int, raw: bool, only: Sequence[str], kinds: Sequence[str]) -> None:
    network = load_mask(PROFILE.packaging, threads=2)
    rng = np.random.default_rng(seed)
    folders = [folder for folder in sorted(spins.iterdir()) if (folder / "views.json").exists()]
    from gapray.inspect.check import _quality_findings

    clean: list[set[str]] = []
    found: dict[str, list[bool]] = {}
    far, near = [], []
    for folder in folders:
        if only and folder.name not in only:
            continue
        photos = Photos(folder, network)
        chosen = photos.eight()
        plain = [photos[index] for index in chosen]
        said = [float(azimuth) for azimuth in photos.azimuths[chosen]]
        fingerprints = [fingerprint(*view) for view in plain]
        far += [difference(fingerprints[a], fingerprints[b]) for a in range(8) for b in range(a)]
        copies = [again(photos, plain[a][0]) for a in range(0, 8, 3)]
        near += [
            difference(fingerprints[a], fingerprint(*copy)) for a, copy in zip(range(0, 8, 3), copies, strict=True)
        ]
        numbers = measure_quality(*zip(*plain, strict=True))
        if raw:
            print(folder.name, *(f"\n   {quality}" for quality in numbers))
        clean += [{item.code for item in _quality_findings("x", quality, PROFILE.check)} for quality in numbers]
        for name, (code, change) in degraded().items():
            if kinds and name not in kinds:
                continue
            for at in rng.choice(8, 3, replace=False):
                changed = list(plain)
                photo = change(plain[at][0], plain[at][1], rng)
                try:
                    changed[at] = photo, photos.mask(photo)
                except InputError:
                    found.setdefault(name, []).append(code in ("photo.cut", "photo.clutter"))  # refused as photo.mask
                    continue
                if (
                    code == "photo.scale"
                ):  # found by the arrangement; photos that were cropped individually have no common scale
                    if not photos.true:
                        told = judged(changed, said).findings
                        found.setdefault(name, []).append(
                            any(item.code == code and str(at) in item.files for item in told)
                        )
                    continue
                numbers = measure_quality(*zip(*changed, strict=True))
                codes = [{item.code for item in _quality_findings("x", quality, PROFILE.check)} for quality in numbers]
                if raw:
                    print("  ", name, numbers[at])
                good = code in codes[at]
                if code == "photo.exposure_drift":
                    good = bool(codes[at] & {code, "photo.overexposed", "photo.underexposed"})
                if code in ("photo.clutter", "photo.cut"):
                    good = bool(codes[at] & {code, "photo.mask"})
                found.setdefault(name, []).append(good)
    print("| what was done | code | recall | false alarms on untouched photos |\n| --- | --- | --- | --- |")
    for name, (code, _) in degraded().items():
        if name not in found:
            continue
        alarms = [code in codes for codes in clean]
        print(f"| {name} | {code} | {interval(found[name])} | {interval(alarms)} |")
    print(f"\ncopies differ by {min(near):.2f} … {max(near):.2f}, different photos by {min(far):.2f} and more")
    print(
        "any serious finding on untouched photos:",
        {code: sum(code in codes for codes in clean) for code in sorted(set().union(*clean))},
        "of",
        len(clean),
    )


def strange(folders: Sequence[Path], only: Sequence[str]) -> None:
    """Turn each of eight photos, and put one of another set in its place; also test the eight unchanged."""
    network = load_mask(PROFILE.packaging, threads=1)
    sets = {
        folder.name: [photos[index] for index in photos.eight()]
        for root in folders
        for folder in sorted(root.iterdir())
        if (folder / "views.json").exists() and (not only or folder.name in only)
        for photos in [Photos(folder, network)]
    }
    names = [str(index) for index in range(8)]
    tally: dict[str, list[bool]] = {}
    for name, views in sets.items():
        told = find_outliers(names, *zip(*views, strict=True))
        tally.setdefault("false alarms a set", []).append(bool(told))
        for index in range(8):
            for turns in (1, 2, 3):
                turned_view = tuple(np.ascontiguousarray(np.rot90(image, turns)) for image in views[index])
                told = find_outliers(names, *zip(*[*views[:index], turned_view, *views[index + 1 :]], strict=True))
                found = any(item.code == "photo.turned" and item.files == (str(index),) for item in told)
                tally.setdefault(f"turned by {90 * turns}", []).append(found)
        for other in [other for other in sets if other != name][::4]:
            told = find_outliers(names, *zip(*[*views[:3], sets[other][3], *views[4:]], strict=True))
            tally.setdefault("another product", []).append(any(item.files == ("3",) for item in told))
    for kind, hits in tally.items():
        print(f"{kind}: {interval(hits)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("angles", "quality", "odd", "table"))
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--to", type=Path, default=Path("check-cases.jsonl"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--kinds", nargs="*", default=[], help="only these kinds of cases, as named in the table")
    parser.add_argument("--raw", action="store_true", help="print the numbers of every photo")
    given = parser.parse_args()
    first, count = map(int, given.part.split("/"))
    if given.what == "angles":
        angles(given.paths[0], given.seed, (first, count), given.to, given.only, given.kinds)
        if count == 1:
            table([given.to])
    elif given.what == "quality":
        quality(given.paths[0], given.seed, given.raw, given.only, given.kinds)
    elif given.what == "odd":
        strange(given.paths, given.only)
    else:
        table(given.paths)


if __name__ == "__main__":
    main()
