"""`gapray capture check`: the photos of one product -> what is wrong with them, photo by photo."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gapray.capture.azimuths import MIN_VIEWS, NORMAL_GAP_DEG, turned
from gapray.capture.capture_set import CaptureSet
from gapray.capture.decode import decode_photo
from gapray.capture.discover import DiscoverOptions, discover
from gapray.capture.kinds import counted
from gapray.capture.storage import read_bytes
from gapray.config import CheckSettings, Profile
from gapray.errors import InputError
from gapray.inspect.arrangement import Arrangement, arrange, laid_along
from gapray.inspect.duplicates import duplicates
from gapray.inspect.findings import Finding
from gapray.inspect.folder import new_folder, write_table
from gapray.inspect.odd import odd
from gapray.inspect.quality import Quality, qualities
from gapray.inspect.sheet_cameras import FULL_SIDE, LEAST_MARKERS, cameras
from gapray.models.load import load_mask
from gapray.models.mask import MaskModel
from gapray.packaging.silhouette import silhouette

WORK_SIDE = 1024
"""Photos are judged at this size of the longer side at most [pixels]."""
PAIR_DEG = 12.0
"""Two photos are swapped when each shows the other's angle to within this."""
MUCH_CUT = 0.05
"""A product that runs along so much of the photo's edge has lost a part; one that touches it has its outline still."""
MOST_ODD = 0.25
"""Share of the photos that may be left out because their outline cannot be trusted."""
SIDES = ("front", "front right", "right side", "back right", "back", "back left", "left side", "front left")
"""Sides of the product as seen by somebody who looks at its front, at 0, 45, … degrees."""

Images = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class CheckedPhoto:
    """One photo and what was found out about it."""

    name: str
    uri: str
    azimuth_deg: float
    """As it is named."""
    seen_deg: float | None
    """As it looks; None where that cannot be told."""
    quality: Quality | None
    """None for a photo that cannot be read or has no product in it."""
    state: Literal["good", "weak", "again"]


@dataclass(frozen=True)
class Check:
    """What was found out about one product's photos."""

    product_id: str
    photos: tuple[CheckedPhoto, ...]
    """By azimuth as named."""
    missing_deg: tuple[float, ...]
    """Angles from which there is no photo."""
    findings: tuple[Finding, ...]
    direction: int
    """-1 when the photos run the other way round than they are named."""
    by_markers: bool
    """Angles come from the printed sheet's markers."""
    ignored: dict[str, int]
    """What lies beside the photos and is not used, by kind: `gapray.capture.kinds.counted`."""

    @property
    def good(self) -> bool:
        """Whether nothing has to be taken again."""
        return not any(one.serious for one in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "product_id": self.product_id,
            "good": self.good,
            "direction": self.direction,
            "by_markers": self.by_markers,
            "missing_deg": list(self.missing_deg),
            "photos": [asdict(one) for one in self.photos],
            "findings": [one.as_dict() for one in self.findings],
            "ignored": self.ignored,
        }


def check(
    folder: str,
    profile: Profile,
    *,
    options: DiscoverOptions = DiscoverOptions(layout="product"),
    network: MaskModel | None = None,
    on_step: Callable[[str], None] = lambda what: None,
) -> Check:
    """Check the photos of one product. Nothing is written.

    Args:
        folder: Of the photos, local or an URI.
        profile: Its mask network and its `check` thresholds.
        options: How names become azimuths.
        network: Loaded already; default: the profile's.
        on_step: Told what is done next.

    Raises:
        InputError: A `capture.*` code when names give no azimuths or there are fewer than `MIN_VIEWS` photos.
        ModelError: `model.*`.
    """
    beside: list[str] = []
    one = _capture_of(folder, options, beside)
    on_step("reading the photos")
    photos, unreadable = _read(one, profile)
    on_step("cutting the product out")
    network = network or load_mask(profile.packaging, threads=2)
    masks, maskless = _masked(photos, network, profile)
    names = [name for name in photos if name in masks]
    images, cut = [photos[name] for name in names], [masks[name] for name in names]
    named = {photo.name: photo.azimuth_deg for photo in one.photos}
    judged = Judged({}, (), None)
    by_markers = False
    if len(names) >= MIN_VIEWS:
        on_step("asking each photo from where it was taken")
        measured = _by_markers(one, names, [named[name] for name in names], profile)
        by_markers = measured is not None
        judged = judge(names, images, cut, [named[name] for name in names], profile.check, measured)
    arrangement, found = judged.arrangement, judged.qualities
    findings = [*unreadable, *maskless, *judged.findings]
    missing = _missing(list(named.values()))
    findings += [
        Finding("azimuth.missing", (), f"there is no photo from {angle:.0f}° ({side_of(angle)})") for angle in missing
    ]
    seen = _told(arrangement, judged.arranged) if arrangement else {}
    checked = tuple(
        CheckedPhoto(
            photo.name,
            photo.uri,
            photo.azimuth_deg,
            seen.get(photo.name),
            found.get(photo.name),
            _state(photo.name, findings),
        )
        for photo in one.photos
    )
    return Check(
        one.product_id,
        checked,
        missing,
        tuple(findings),
        arrangement.direction if arrangement else 1,
        by_markers,
        counted([*beside, *one.ignored]),
    )


@dataclass(frozen=True)
class Judged:
    """What the pixels of one product's photos say."""

    qualities: dict[str, Quality]
    findings: tuple[Finding, ...]
    arrangement: Arrangement | None
    """Arrangement of the photos named in `arranged`; None where too few can be compared."""
    arranged: tuple[str, ...] = ()


def judge(
    names: Sequence[str],
    photos: Images,
    masks: Images,
    azimuths_deg: Sequence[float],
    limits: CheckSettings,
    measured: Arrangement | None = None,
) -> Judged:
    """Judge photos that are decoded and cut out.

    Args:
        names: One a photo, at least `MIN_VIEWS`.
        photos: uint8 [H, W, 3] each.
        masks: uint8 [H, W] each, none empty.
        azimuths_deg: As they are named.
        limits: From which on something is a finding.
        measured: Angles that are known from markers.
    """
    found = qualities(photos, masks)
    findings = [item for name, quality in zip(names, found, strict=True) for item in _weak(name, quality, limits)]
    doubled = duplicates(photos, masks)
    findings += [Finding("azimuth.duplicate", (names[a], names[b]), "the two files show one photo") for a, b in doubled]
    strange = odd(names, photos, masks)
    findings += strange
    # The outline of a product that is cut would tell lies about all others' angles; but where nearly all are cropped that closely,
    # they are all that there is.
    untrusted = {name for name, one in zip(names, found, strict=True) if one.cut > MUCH_CUT}
    untrusted = untrusted if len(untrusted) <= MOST_ODD * len(names) else set()
    untrusted |= {names[b] for _, b in doubled} | {name for item in strange for name in item.files}
    kept = [index for index, name in enumerate(names) if measured is not None or name not in untrusted]
    said = [azimuths_deg[index] for index in kept]
    arrangement = measured
    if measured is None and len(kept) >= MIN_VIEWS:
        arrangement = arrange([photos[index] for index in kept], [masks[index] for index in kept], said)
    if arrangement is not None:
        findings += _misplaced(arrangement, [names[index] for index in kept], said, limits)
    qualities_of = dict(zip(names, found, strict=True))
    return Judged(qualities_of, tuple(findings), arrangement, tuple(names[index] for index in kept))


def fix(folder: str, checked: Check, out_folder: str | Path) -> dict[str, float]:
    """Copy the photos with the angles that they show; those that are doubled or mirrored stay out.

    Args:
        folder: For messages.
        checked: What `check` said of it.
        out_folder: A new or empty folder.

    Returns:
        Name -> azimuth in degrees of the photos that were copied.

    Raises:
        InputError: `check.nothing_to_fix` when no angle can be told, or as `gapray.inspect.folder.new_folder`.
    """
    left_out = {file for item in checked.findings if item.code == "azimuth.mirrored" for file in item.files}
    left_out |= {item.files[1] for item in checked.findings if item.code == "azimuth.duplicate"}
    placed = {one.name: one for one in checked.photos if one.seen_deg is not None and one.name not in left_out}
    if len(placed) < MIN_VIEWS:
        raise InputError("check.nothing_to_fix", f"{folder}: the photos do not say from where they were taken")
    azimuths = {name: round(float(one.seen_deg or 0.0) % 360.0, 1) % 360.0 for name, one in placed.items()}
    with new_folder(out_folder) as partial:
        for name, one in placed.items():
            target = partial / Path(name).name
            if Path(one.uri).exists():
                shutil.copyfile(one.uri, target)
            else:
                target.write_bytes(read_bytes(one.uri, 2**31))
        rows = [(Path(name).name, f"{azimuth:.1f}") for name, azimuth in azimuths.items()]
        write_table(partial, sorted(rows, key=lambda row: float(row[1])))
    return azimuths


def side_of(azimuth_deg: float) -> str:
    """What a photographer calls an angle."""
    return SIDES[round(azimuth_deg / 45.0) % 8]


def _capture_of(folder: str, options: DiscoverOptions, beside: list[str]) -> CaptureSet:
    # A side that is missing is what a check is for.
    loose = replace(options, layout="product", azimuths=replace(options.azimuths, allow_missing=True))
    [one] = discover(folder, loose, beside=beside)
    if len(one.photos) < 2:
        raise InputError(
            "capture.missing_views", f"{len(one.photos)} photo in {folder}; at least {MIN_VIEWS} angles are needed"
        )
    return one


def _read(one: CaptureSet, profile: Profile) -> tuple[dict[str, NDArray[np.uint8]], list[Finding]]:
    photos: dict[str, NDArray[np.uint8]] = {}
    findings: list[Finding] = []
    small = profile.packaging.decode.model_copy(update={"reference_side": WORK_SIDE})
    for photo in one.photos:
        try:
            photos[photo.name] = decode_photo(read_bytes(photo.uri, small.max_bytes), small, of_product=True)
        except InputError as error:
            findings.append(Finding("photo.unreadable", (photo.name,), error.message))
    return photos, findings


def _masked(
    photos: Mapping[str, NDArray[np.uint8]], network: MaskModel, profile: Profile
) -> tuple[dict[str, NDArray[np.uint8]], list[Finding]]:
    masks: dict[str, NDArray[np.uint8]] = {}
    findings: list[Finding] = []
    for name, photo in photos.items():
        [soft] = network.predict([photo])
        try:
            masks[name] = silhouette(photo, soft, profile.packaging.mask)
        except InputError as error:
            findings.append(Finding("photo.mask", (name,), error.message))
    return masks, findings


def _weak(name: str, quality: Quality, limits: CheckSettings) -> list[Finding]:
    """What one photo's numbers say against the limits."""
    drift = quality.exposure_ev
    told = [
        ("photo.blurred", quality.blur > limits.max_blur or quality.softer > limits.max_softer, f"blur {quality.blur:.2f}, {quality.softer:.1f} times the others'"),
        ("photo.overexposed", quality.burnt > limits.max_burnt, f"{quality.burnt:.0%} of the product is burnt out"),
        ("photo.underexposed", quality.black > limits.max_black, f"{quality.black:.0%} of the product is black"),
        ("photo.exposure_drift", abs(drift) > limits.max_exposure_ev, f"{drift:+.1f} stops against the others"),
        ("photo.white_balance", quality.white_balance > limits.max_white_balance, f"colours differ by {quality.white_balance:.0%}"),
        ("photo.cut", quality.cut > limits.max_cut, f"{quality.cut:.0%} of the photo's edge is product"),
        ("photo.clutter", quality.clutter > limits.max_clutter, f"{quality.clutter:.0%} of what is behind it is edges"),
        ("photo.mask", quality.unsure > limits.max_unsure, f"the mask's outline is soft ({quality.unsure:.1f})"),
    ]  # fmt: skip
    return [Finding(code, (name,), message) for code, wrong, message in told if wrong]


def _by_markers(one: CaptureSet, names: Sequence[str], given: Sequence[float], profile: Profile) -> Arrangement | None:
    """Angles by the sheet, where every photo sees it; their zero is where it fits the names best."""
    full = profile.packaging.decode.model_copy(update={"reference_side": FULL_SIDE})
    uris = {photo.name: photo.uri for photo in one.photos}
    first = cameras([decode_photo(read_bytes(uris[names[0]], full.max_bytes), full)])
    if first[0] is None or first[0].markers < LEAST_MARKERS:
        return None
    seen = cameras([decode_photo(read_bytes(uris[name], full.max_bytes), full) for name in names])
    if any(sight is None for sight in seen):
        return None
    on_sheet = np.array([sight.azimuth_deg for sight in seen if sight is not None])
    shown, direction = laid_along(on_sheet, np.asarray(given, np.float64))
    views = len(names)
    yes, no = (True,) * views, (False,) * views
    return Arrangement(tuple(map(float, shown)), direction, no, yes, yes, yes, (1.0,) * views, 0.0, 0.0)


def _misplaced(
    arrangement: Arrangement, names: Sequence[str], given: Sequence[float], limits: CheckSettings
) -> list[Finding]:
    """Photos whose angle, side or order is not what they are named."""
    if not arrangement.observable:
        text = "the photos look alike from everywhere: their angles cannot be told"
        return [Finding("azimuth.unobservable", (), text)]
    findings = []
    if arrangement.direction < 0:
        findings.append(Finding("azimuth.reversed", (), "the photos run clockwise, against their angles"))
    for name, fitting, scale in zip(names, arrangement.fitting, arrangement.scales, strict=True):
        if not fitting:
            findings.append(Finding("azimuth.misfit", (name,), "its outline fits the other photos at no angle"))
        if abs(np.log(scale)) > np.log(1 + limits.max_scale):
            findings.append(
                Finding("photo.scale", (name,), f"the product is {scale - 1:+.0%} as large as in the others")
            )
    expected = [angle if arrangement.direction > 0 else -angle for angle in given]
    off = [turned(seen, angle) for seen, angle in zip(arrangement.azimuths_deg, expected, strict=True)]
    told: set[int] = set()
    for index, flipped in enumerate(arrangement.mirrored):
        if flipped:
            told.add(index)
            findings.append(Finding("azimuth.mirrored", (names[index],), "left and right are exchanged"))
    for a in range(len(names)):
        for b in range(a + 1, len(names)):
            seen_a, seen_b = arrangement.azimuths_deg[a], arrangement.azimuths_deg[b]
            crossed = max(abs(turned(seen_a, expected[b])), abs(turned(seen_b, expected[a]))) < PAIR_DEG
            if crossed and {a, b}.isdisjoint(told) and abs(off[a]) > PAIR_DEG:
                told |= {a, b}
                text = f"each shows the other's angle ({given[a]:.0f}° and {given[b]:.0f}°)"
                findings.append(Finding("azimuth.swapped", (names[a], names[b]), text))
    for index, degrees in enumerate(off):
        if (
            abs(degrees) > limits.max_azimuth_deg
            and arrangement.sure[index]
            and arrangement.told[index]
            and index not in told
        ):
            text = f"named {given[index]:.0f}°, it shows {arrangement.azimuths_deg[index] % 360:.0f}°"
            findings.append(Finding("azimuth.off", (names[index],), text))
    return findings


def _told(arrangement: Arrangement, names: Sequence[str]) -> dict[str, float]:
    """Name -> angle of the photos that fit the others; none of a set that does not say where it was taken from."""
    if not arrangement.observable:
        return {}
    rows = zip(names, arrangement.azimuths_deg, arrangement.fitting, strict=True)
    return {name: azimuth for name, azimuth, fitting in rows if fitting}


def _missing(azimuths: Sequence[float]) -> tuple[float, ...]:
    """Angles that a set in steps of 45 degrees, or of its own usual step where that is smaller, lacks."""
    ordered = sorted(azimuths)
    gaps = [
        (after - before) % 360.0 or 360.0 for before, after in zip(ordered, [*ordered[1:], ordered[0]], strict=True)
    ]
    step = max(NORMAL_GAP_DEG, float(np.median(gaps)))
    missing: list[float] = []
    for before, gap in zip(ordered, gaps, strict=True):
        count = round(gap / step)
        missing += [(before + gap * part / count) % 360.0 for part in range(1, count)]
    return tuple(missing)


def _state(name: str, findings: Sequence[Finding]) -> Literal["good", "weak", "again"]:
    mine = [item for item in findings if name in item.files]
    # Of a doubled photo the first is good.
    mine = [item for item in mine if item.code != "azimuth.duplicate" or item.files[1] == name]
    if any(item.serious for item in mine):
        return "again"
    return "weak" if mine else "good"
