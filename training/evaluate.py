"""Evaluate how well each engine draws photos that were withheld from it.

python -m training.evaluate WEIGHTS [--sets sets.zip] [FOLDER…] [--held-out N] [--sheet sheet.jpg] [--json table.json]

Engines: the nearest photo, optical flow between the two nearest, the view morph, the network. Sets are read from a file
written by `python -m training.sets`, or from folders as described there; `--held-out` adds procedural products that training
never sees. Everything is compared at 256 px on white, LPIPS with AlexNet, as in `benchmarks/orbit.py`: ETH-80's photos, which
were each cropped to their own product, are centred again by their masks, truth and result alike.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gapray.fidelity.baselines import flow_morph, nearest
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.metrics import psnr, silhouette_iou
from gapray.fidelity.shown import NormalizedView
from gapray.geometry.frame import Placement, mask_box, to_frame
from gapray.orbit.reconstruct import build_scene
from gapray.orbit.settings import OrbitSettings
from gapray.orbit.synthesis.draw import load_network
from gapray.orbit.synthesis.inputs import Frames, Photos, frames_of, photos_of
from gapray.orbit.synthesis.network import Synthesis
from training.examples import Recipe
from training.pool import every
from training.sets import Photo, Subject, from_folders, load_sets
from training.store import Batch, Store

SIDE = 256
BASELINES = ("nearest", "flow", "morph")
HELD_OUT_SEED = 1_000_000_000
"""First seed of the held-out products; training's seeds are lower."""
Scores = dict[str, dict[str, list[float]]]
"""Engine -> object -> LPIPS, PSNR, IoU."""
Networks = Mapping[str, Synthesis]
"""Name in the table of scores -> network."""
Measure = Callable[[Sequence[NormalizedView], Sequence[NormalizedView]], list[float]]


@dataclass(frozen=True)
class Prepared:
    """A subject and its network inputs, which take CPU time to compute. Stored as arrays, so that processes can pass it on."""

    subject: Subject
    frames: dict[str, NDArray[np.generic]]
    """Fields of `Frames`, one frame for each hidden photo."""
    photos: dict[str, NDArray[np.generic]]
    """Fields of `Photos`."""


def prepared(subject: Subject) -> Prepared:
    """Reconstruct a subject in the same way as gapray."""
    torch.set_num_threads(1)
    scene, _ = build_scene(
        [photo.image for photo in subject.given],
        [photo.mask for photo in subject.given],
        [photo.azimuth_deg for photo in subject.given],
        OrbitSettings(size=SIDE, framing="photo", engine="morph"),
    )
    with torch.no_grad():
        azimuths = [photo.azimuth_deg for photo in subject.hidden]
        frames = frames_of(scene, azimuths)
    return Prepared(subject, _arrays(frames), _arrays(photos_of(scene)))


def _arrays(tensors: Frames | Photos) -> dict[str, NDArray[np.generic]]:
    return {field.name: getattr(tensors, field.name).numpy() for field in fields(tensors)}


def _tensors(arrays: dict[str, NDArray[np.generic]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def measure_with(metric: Lpips) -> Measure:
    """Make a function that returns mean LPIPS, PSNR and IoU of drawn frames against the truth."""

    def measure(drawn: Sequence[NormalizedView], truth: Sequence[NormalizedView]) -> list[float]:
        images, truths = (np.stack([view.image for view in views]) for views in (drawn, truth))
        return [
            float(metric.distance(images, truths).mean()),
            float(np.mean([psnr(a, b) for a, b in zip(images, truths, strict=True)])),
            float(np.mean([silhouette_iou(a.mask, b.mask) for a, b in zip(drawn, truth, strict=True)])),
        ]

    return measure


def compare(ready: Prepared, networks: Networks, measure: Measure, device: str) -> dict[str, list[float]]:
    """Score each engine on one subject."""
    subject = ready.subject
    given = [_on_white(photo) for photo in subject.given]
    truth = [_on_white(photo) for photo in subject.hidden]
    azimuths = [photo.azimuth_deg for photo in subject.hidden]
    photos, frames = Photos(**_tensors(ready.photos)), Frames(**_tensors(ready.frames))
    drawn = {
        "nearest": [nearest(given, azimuth) for azimuth in azimuths],
        "flow": [flow_morph(given, azimuth) for azimuth in azimuths],
        "morph": pictures(frames.morph, frames.alpha),
        **{name: pictures(*_run(network, frames, photos, device)) for name, network in networks.items()},
    }
    if subject.group == "ETH-80":
        truth = [_centred(frame) for frame in truth]
        drawn = {name: [_centred(frame) for frame in shown] for name, shown in drawn.items()}
    return {name: measure(shown, truth) for name, shown in drawn.items()}


@torch.no_grad()
def _run(network: Synthesis, frames: Frames, photos: Photos, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    colours, alphas = [], []
    for index in range(len(frames.morph)):
        few = Frames(*(getattr(frames, name)[index : index + 1].to(device) for name in Frames.__annotations__))
        near = photos.chosen(frames.views[index : index + 1])
        drawn = network(few, Photos(near.colour.to(device), near.alpha.to(device), near.fronts.to(device)))
        colours.append(drawn.colour.cpu())
        alphas.append(drawn.alpha.cpu())
    return torch.cat(colours), torch.cat(alphas)


def pictures(colour: torch.Tensor, alpha: torch.Tensor) -> list[NormalizedView]:
    """Composite [B, 3, S, S] and [B, 1, S, S] on white, as frames without an azimuth."""
    laid = ((colour * alpha + 1 - alpha).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    masks = (alpha[:, 0] * 255).round().byte().cpu().numpy()
    return [NormalizedView(0.0, image, mask) for image, mask in zip(laid, masks, strict=True)]


def _on_white(photo: Photo) -> NormalizedView:
    height, width = photo.mask.shape
    place = Placement(width / 2, height / 2, max(height, width) / 2)
    image, mask = to_frame(photo.image, place, SIDE), to_frame(photo.mask, place, SIDE)
    alpha = mask[..., None] / 255
    return NormalizedView(photo.azimuth_deg, np.rint(image * alpha + 255 * (1 - alpha)).astype(np.uint8), mask)


def _centred(frame: NormalizedView) -> NormalizedView:
    if not (frame.mask >= 128).any():
        return frame
    left, right, upper, lower = mask_box(frame.mask >= 128)
    place = Placement((left + right) / 2, (upper + lower) / 2, 0.55 * max(right - left, lower - upper))
    return NormalizedView(
        frame.azimuth_deg, to_frame(frame.image, place, SIDE, outside=255), to_frame(frame.mask, place, SIDE)
    )


def validation(store: Store, networks: Networks, measure: Measure) -> Scores:
    """Score the morph and the networks on the products of a store, one row for each product."""
    table: Scores = {"morph": {}, **{name: {} for name in networks}}
    for product in range(len(store)):
        batch = store.at(torch.arange(product * store.targets, (product + 1) * store.targets))
        white = pictures(batch.truth + (1 - batch.alpha), batch.alpha)
        truth = [NormalizedView(0.0, _unmixed(batch, index), frame.mask) for index, frame in enumerate(white)]
        table["morph"][store.names[product]] = measure(pictures(batch.frames.morph, batch.frames.alpha), truth)
        for name, network in networks.items():
            with torch.no_grad():
                drawn = network(batch.frames, batch.photos)
            table[name][store.names[product]] = measure(pictures(drawn.colour, drawn.alpha), truth)
    return table


def _unmixed(batch: Batch, index: int) -> NDArray[np.uint8]:
    image = (batch.truth[index] + 1 - batch.alpha[index]).clamp(0, 1)
    return np.asarray((image * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def means(table: Scores) -> dict[str, list[float]]:
    """Mean LPIPS, PSNR and IoU of each engine."""
    return {name: [round(float(value), 4) for value in np.mean(list(rows.values()), 0)] for name, rows in table.items()}


def held_out(count: int, recipe: Recipe) -> list[tuple[int, Recipe]]:
    """Jobs for procedural products that training never sees: `count` shapes with one skin each."""
    return [(seed, replace(recipe, skins=1)) for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + count)]


def sheet(store: Store, network: Synthesis, products: int) -> NDArray[np.uint8]:
    """The morph, the network and the truth in rows, one column for each product, uint8 [3 S, products x S, 3]."""
    by_name = sorted(range(len(store)), key=lambda index: store.names[index])
    indices = torch.tensor(by_name[:products]) * store.targets
    batch = store.at(indices)
    with torch.no_grad():
        drawn = network(batch.frames, batch.photos)
    rows = [
        [frame.image for frame in pictures(batch.frames.morph, batch.frames.alpha)],
        [frame.image for frame in pictures(drawn.colour, drawn.alpha)],
        [_unmixed(batch, index) for index in range(len(indices))],
    ]
    return np.concatenate([np.concatenate(row, 1) for row in rows], 0)


def on_sets(
    subjects: Iterable[Subject], networks: Networks, measure: Measure, device: str, workers: int
) -> dict[str, Scores]:
    """Reconstruct subjects and score them, by group."""
    with ProcessPoolExecutor(workers, get_context("spawn")) as executor:
        ready = list(executor.map(prepared, subjects))
    return score_sets(ready, networks, measure, device)


def score_sets(ready: Iterable[Prepared], networks: Networks, measure: Measure, device: str) -> dict[str, Scores]:
    """Score subjects that are already reconstructed, by group."""
    groups: dict[str, Scores] = {}
    for item in ready:
        scores = compare(item, networks, measure, device)
        for name, values in scores.items():
            groups.setdefault(item.subject.group, {}).setdefault(name, {})[item.subject.name] = values
    return groups


def as_text(groups: dict[str, Scores]) -> str:
    """A table for people, with the objects on which a network is worse than the morph."""
    wide = max((len(name) for table in groups.values() for name in table), default=7)
    lines = [
        f"{'set':16s} {'engine':{wide}s} {'n':>3s} {'LPIPS':>7s} {'PSNR':>6s} {'IoU':>6s}  worse than the morph on"
    ]
    for group, table in groups.items():
        for name, (lpips, decibel, overlap) in means(table).items():
            worse = [key for key, row in table[name].items() if row[0] > table["morph"][key][0] + 0.002]
            note = ", ".join(worse[:6]) + (f" and {len(worse) - 6} more" if len(worse) > 6 else "")
            count = len(table[name])
            lines.append(
                f"{group:16s} {name:{wide}s} {count:3d} {lpips:7.4f} {decibel:6.2f} {overlap:6.3f}  "
                + (note if name not in BASELINES else "")
            )
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folders", nargs="*", help="`samples`, or folders of spins")
    parser.add_argument("--sets", type=Path, help="a file of `python -m training.sets`")
    parser.add_argument("--held-out", type=int, default=0, help="procedural products")
    parser.add_argument("--size", type=int, default=SIDE, help="side of the held-out products' frames")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sheet", type=Path, help="write morph, network and truth of twelve held-out products")
    parser.add_argument("--json", type=Path, help="write all scores")
    chosen = parser.parse_args()
    network, metric = load_network(chosen.weights, chosen.device), Lpips("alex", device=chosen.device)
    measure, networks = measure_with(metric), {"network": network}
    subjects = itertools.chain(load_sets(chosen.sets) if chosen.sets else (), from_folders(chosen.folders))
    groups = (
        on_sets(subjects, networks, measure, chosen.device, chosen.workers) if chosen.sets or chosen.folders else {}
    )
    if chosen.held_out:
        recipe = Recipe(size=chosen.size)
        store = Store(chosen.held_out, recipe, chosen.device)
        for example in every(held_out(chosen.held_out, recipe), chosen.workers):
            store.add(example)
        groups["procedural"] = validation(store, networks, measure)
        if chosen.sheet:
            cv2.imwrite(str(chosen.sheet), sheet(store, network, 12)[..., ::-1])
    print(as_text(groups))
    if chosen.json:
        chosen.json.write_text(json.dumps(groups, indent=1))


if __name__ == "__main__":
    main()
