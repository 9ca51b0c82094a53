"""Pack real and scanned products for evaluation into one small file that travels to the machine with the GPU.

python -m training.sets sets.zip FOLDER…

A folder is `samples` or one of spins with a `views.json` each, read in the same way as by `benchmarks/orbit.py`: the same
photos are given, the same are hidden, and masks are made by the same network.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

LARGEST = 256
"""Photos are reduced to this side [pixels]."""
QUALITY = 93


@dataclass(frozen=True)
class Photo:
    """One photo of a set."""

    azimuth_deg: float
    image: NDArray[np.uint8]
    """uint8 [H, W, 3], sRGB."""
    mask: NDArray[np.uint8]
    """uint8 [H, W]: gapray's own mask for a given photo, the best known one for a hidden photo."""


@dataclass(frozen=True)
class Subject:
    """One object with its given and hidden photos."""

    name: str
    group: str
    given: tuple[Photo, ...]
    hidden: tuple[Photo, ...]


def load_sets(path: Path) -> Iterator[Subject]:
    """Read a file that `pack` wrote."""
    with zipfile.ZipFile(path) as archive:

        def image(name: str, how: int) -> NDArray[np.uint8]:
            return np.asarray(cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), how), np.uint8)

        for entry in json.loads(archive.read("index.json")):
            photos: dict[str, list[Photo]] = {"given": [], "hidden": []}
            for shot in entry["photos"]:
                colour = image(shot["image"], cv2.IMREAD_COLOR)[..., ::-1]
                mask = image(shot["mask"], cv2.IMREAD_GRAYSCALE)
                photos[shot["part"]].append(Photo(shot["azimuth_deg"], np.ascontiguousarray(colour), mask))
            yield Subject(entry["name"], entry["group"], tuple(photos["given"]), tuple(photos["hidden"]))


def pack(subjects: Iterator[Subject], path: Path) -> None:
    """Write subjects into one file."""
    index = []
    unfinished = path.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w") as archive:
        for number, subject in enumerate(subjects):
            shots: list[dict[str, object]] = []
            for part, photos in (("given", subject.given), ("hidden", subject.hidden)):
                for photo in photos:
                    stem = f"{number:02d}/{part}_{photo.azimuth_deg:07.3f}"
                    scale = min(1.0, LARGEST / max(photo.mask.shape))
                    shape = tuple(round(side * scale) for side in photo.mask.shape[::-1])
                    small = cv2.resize(photo.image[..., ::-1], shape, interpolation=cv2.INTER_AREA)
                    mask = cv2.resize(photo.mask, shape, interpolation=cv2.INTER_AREA)
                    archive.writestr(
                        f"{stem}.jpg", cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
                    )
                    archive.writestr(f"{stem}.png", cv2.imencode(".png", mask)[1].tobytes())
                    shots.append(
                        {"part": part, "azimuth_deg": photo.azimuth_deg, "image": f"{stem}.jpg", "mask": f"{stem}.png"}
                    )
            index.append({"name": subject.name, "group": subject.group, "photos": shots})
        archive.writestr("index.json", json.dumps(index))
    unfinished.replace(path)


def from_folders(folders: list[str]) -> Iterator[Subject]:
    """Read data sets from their folders; needs gapray's mask network."""
    from benchmarks.orbit import objects
    from gapray.models.load import load_mask
    from gapray.profile import load_profile

    network = load_mask(load_profile("classic", environment={}).packaging, threads=2)
    for folder in folders:
        for item in objects(folder, network):
            group = item.group if item.group != "product spins" or "scans" not in Path(folder).name else "scans"
            yield Subject(
                item.name,
                group,
                tuple(Photo(shot.azimuth_deg, shot.photo, shot.mask) for shot in item.given),
                tuple(
                    Photo(
                        shot.azimuth_deg,
                        shot.photo,
                        shot.true_mask if group == "samples" and shot.true_mask is not None else shot.mask,
                    )
                    for shot in item.hidden
                ),
            )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("to", type=Path)
    parser.add_argument("folders", nargs="+")
    chosen = parser.parse_args()
    pack(from_folders(chosen.folders), chosen.to)
    print(f"{chosen.to}: {chosen.to.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
