"""One memory card, many products: a photo of a QR code or barcode (the slate) begins each product."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapray.capture.azimuths import AzimuthOptions, natural_parts, read_names
from gapray.capture.capture_set import Reject
from gapray.capture.decode import decode_photo
from gapray.capture.discover import PRODUCT_ID
from gapray.capture.kinds import photos_below
from gapray.capture.names import view_name
from gapray.capture.storage import printable, read_bytes
from gapray.config import DecodeSettings
from gapray.errors import GaprayError, InputError
from gapray.inspect.folder import new_folder, write_table
from gapray.resample import at_most

SLATE_SIDES = (2048, 1024)
"""Photos are looked at in these sizes: a code that fills the photo is read better small [pixels]."""
_TAKEN, _SUBSECONDS, _EXIF = 0x9003, 0x9291, 0x8769  # Exif 2.32: DateTimeOriginal, SubSecTimeOriginal, the IFD of both


@dataclass
class Roll:
    """The photos between two slates."""

    product_id: str
    text: str
    """What the slate says."""
    slate: str
    """Name of the slate photo."""
    photos: list[Path] = field(default_factory=list)


def slate_text(photo: NDArray[np.uint8]) -> str | None:
    """What a QR code or an EAN / UPC barcode in a photo says; None where there is none.

    Args:
        photo: uint8 [H, W, 3], upright.
    """
    for side in SLATE_SIDES:
        grey = cv2.cvtColor(at_most(photo, side), cv2.COLOR_RGB2GRAY)
        text, *_ = cv2.QRCodeDetector().detectAndDecode(grey)
        if not text:
            text, *_ = cv2.barcode.BarcodeDetector().detectAndDecode(grey)
        if text:
            return str(text).strip()
    return None


def taken_at(data: bytes) -> datetime | None:
    """When a photo was taken, by its EXIF; None where it does not say."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            exif = image.getexif().get_ifd(_EXIF)
        text = str(exif.get(_TAKEN, "")).strip("\0 ")
        fraction = re.sub(r"\D", "", str(exif.get(_SUBSECONDS, "")))[:6].ljust(6, "0")
        return datetime.strptime(f"{text}.{fraction}", "%Y:%m:%d %H:%M:%S.%f")
    except Exception:  # a photo whose EXIF is broken is a photo without EXIF
        return None


def rolls(card: str | Path, settings: DecodeSettings = DecodeSettings()) -> tuple[list[Roll], list[Path]]:
    """Split the photos of a card by its slates.

    Photos come in the order in which they were taken; where one does not say when, in the order of the numbers in their names.

    Returns:
        One roll a slate, in the order of the card, and the photos before the first slate. A slate that is photographed several
        times in a row begins one roll.

    Raises:
        InputError: `capture.not_found`, `capture.no_photos`, `slate.none`.
    """
    folder = Path(card)
    if not folder.is_dir():
        raise InputError("capture.not_found", f"there is no folder {card}")
    files = photos_below(folder)
    if not files:
        raise InputError("capture.no_photos", f"no photo lies in {card}")
    times = {one: taken_at(read_bytes(str(one), settings.max_bytes)) for one in files}
    if all(times.values()):
        files.sort(key=lambda one: (times[one] or datetime.min, natural_parts(one.name)))
    else:
        files.sort(key=lambda one: (natural_parts(str(one.parent)), natural_parts(one.name)))
    found: list[Roll] = []
    before: list[Path] = []
    for file in files:
        text = _text_of(file, settings)
        if text is None:
            (found[-1].photos if found else before).append(file)
        elif not (found and found[-1].text == text and not found[-1].photos):
            found.append(Roll(product_of(text), text, file.name))
    if not found:
        raise InputError("slate.none", f"none of {len(files)} photos in {card} shows a QR code or barcode")
    return found, before


def product_of(text: str) -> str:
    """The product's id in a slate's text: the text itself, or the last part of an address; empty where nothing of it can be one."""
    last = text.rstrip("/").rpartition("/")[2] if "://" in text else text
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")[:128]
    return name if PRODUCT_ID.fullmatch(name) else ""


def split(
    card: str | Path,
    out: str | Path,
    *,
    azimuths: AzimuthOptions = AzimuthOptions(names="index"),
    template: str = "degrees",
    settings: DecodeSettings = DecodeSettings(),
    on_product: Callable[[str, int], None] = lambda name, photos: None,
    on_before: Callable[[list[str]], None] = lambda names: None,
) -> list[Path | Reject]:
    """Copy a card's photos into a folder a product, each photo at the angle of its place in the turn.

    Args:
        card: Folder of the card; only read.
        out: Folder of the product folders; those that are there already are refused, one by one.
        azimuths: The way round, the front's place in the order, and whether the last photo shows the front again.
        template: See `gapray.capture.names.TEMPLATES`.
        settings: Limits on the photos.
        on_product: Called with a product and its number of photos before they are copied.
        on_before: Called with the names of the photos before the first slate, which belong to no product.

    Returns:
        A folder or a reject for each product, in the order of the card. Slates that give the same product, by the same text
        or by others, are one reject: whether their photos are one turn, two turns or two products is not known.

    Raises:
        InputError: As `rolls`.
        ConfigError: `config.invalid` for the template.
    """
    done: list[Path | Reject] = []
    found, before = rolls(card, settings)
    on_before([photo.name for photo in before])
    for same in _by_product(found):
        roll = same[0]
        name = roll.product_id or printable(roll.text)
        on_product(name, sum(len(again.photos) for again in same))
        try:
            _check_slates(same)
            done.append(_written(roll, Path(out) / roll.product_id, azimuths, template))
        except GaprayError as error:
            done.append(Reject.of(name, str(card), error))
    return done


def _by_product(found: Sequence[Roll]) -> list[list[Roll]]:
    """Rolls of one product together. Folders that differ in case alone are one on many systems."""
    groups: dict[str, list[Roll]] = {}
    for roll in found:
        groups.setdefault(roll.product_id.casefold() or roll.text, []).append(roll)
    return list(groups.values())


def _check_slates(same: Sequence[Roll]) -> None:
    """Refuse slates that are no product's, or not one product's.

    Raises:
        InputError: `slate.no_id`, `slate.same_id` or `slate.again`.
    """
    texts = {roll.text for roll in same}
    told = "; ".join(f"{roll.slate} {roll.text!r}: {len(roll.photos)} photos" for roll in same)
    if not same[0].product_id:
        raise InputError("slate.no_id", f"nothing of the slate's text can be a product's id: {told}")
    if len(texts) > 1:
        raise InputError("slate.same_id", f"slates with other texts give the id {same[0].product_id}: {told}")
    if len(same) > 1:
        raise InputError("slate.again", f"the slate comes {len(same)} times: {told}")


def _written(roll: Roll, target: Path, options: AzimuthOptions, template: str) -> Path:
    if not roll.photos:
        raise InputError("capture.no_photos", f"no photo follows the slate {roll.slate}")
    # The reading of numbered names already knows about closing frames, fronts and directions.
    numbered = {f"{index:05d}": file for index, file in enumerate(roll.photos)}
    placed = read_names(list(numbered), options).azimuths
    rows: list[tuple[str, ...]] = []
    with new_folder(target) as partial:
        for index, (number, azimuth) in enumerate(placed.items()):
            file = numbered[number]
            name = view_name(template, roll.product_id, azimuth, index)
            if name is None:
                continue
            (partial / f"{name}{file.suffix.lower()}").write_bytes(file.read_bytes())
            rows.append((f"{name}{file.suffix.lower()}", f"{azimuth:.3f}", file.name))
        write_table(partial, rows, "original")
    return target


def _text_of(file: Path, settings: DecodeSettings) -> str | None:
    try:
        full = settings.model_copy(update={"reference_side": max(SLATE_SIDES)})
        return slate_text(decode_photo(read_bytes(str(file), settings.max_bytes), full))
    except InputError:
        return None  # what cannot be read is a photo of its product, and is reported there
