"""Kinds of files and folders in a source, by their names and, where those do not decide, by their first bytes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path, PurePosixPath

from gapray.errors import InputError

HEAD_BYTES = 32
# fmt: off
PHOTO_EXTENSIONS = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".mpo", ".png", ".apng", ".webp", ".heic", ".heif", ".hif"),
        *(".avif", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    )
)
RAW_EXTENSIONS = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".eip", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef"),
        *(".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
    )
)
"""Raw photos: most of them begin like TIFF, and come with the JPEGs made from them."""
OTHER_EXTENSIONS = RAW_EXTENSIONS | frozenset(
    (
        # Files that cameras, phones and editors write next to photos.
        *(".aae", ".thm", ".lrv", ".xmp", ".dop", ".pp3", ".cos", ".cot", ".cop", ".on1", ".cosessiondb", ".cocatalogdb"),
        *(".lrcat", ".psd", ".psb", ".ai", ".eps", ".svg", ".xcf", ".afphoto", ".mie", ".exif", ".icc", ".icm", ".cube"),
        # Videos, audio, tables, texts, archives, 3D models.
        *(".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".mts", ".wav", ".mp3", ".m4a", ".csv", ".tsv", ".json", ".jsonl"),
        *(".parquet", ".xls", ".xlsx", ".ods", ".numbers", ".txt", ".md", ".pdf", ".doc", ".docx", ".html", ".htm", ".xml"),
        *(".yaml", ".yml", ".log", ".ini", ".db", ".zip", ".rar", ".7z", ".gz", ".tar", ".lnk", ".url", ".glb", ".gltf", ".obj"),
        *(".usdz", ".ply", ".fbx", ".stl", ".py", ".sh", ".js", ".css", ".npy", ".npz", ".part", ".crdownload"),
        *(".bak", ".orig", ".old", ".tmp", ".temp", ".backup", ".swp"),
    )
)
# fmt: on
"""Extensions of files that are not photos and need not be opened to know it."""

SIDE_FOLDERS = frozenset({"mask", "masks", "depth", "depths", "truth", "held_out", "thumbnails"})
"""Folders next to a product's photos that are not products themselves."""
# fmt: off
_SYSTEM = frozenset(
    name.casefold()
    for name in (
        *("__MACOSX", "Network Trash Folder", "Temporary Items", ".DS_Store", ".Trashes", ".Spotlight-V100", ".fseventsd"),
        *(".TemporaryItems", ".AppleDouble", ".AppleDB", ".AppleDesktop", ".DocumentRevisions-V100", ".localized", "Icon\r"),
        *("$RECYCLE.BIN", "RECYCLER", "RECYCLED", "System Volume Information", "Thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("FOUND.000", "WindowsImageBackup", "Config.Msi", "Trash", "lost+found", ".Trash-1000", ".Trash"),
        *("@eaDir", "#recycle", "#snapshot", "@tmp", "~snapshot", "@sharebin", "@S2S", "SYNO@.fileindexdb", "@SynoResource"),  # Synology
        *("@Recycle", "@Recently-Snapshot", ".@__thumb", ".@__qini", ".@upload_cache", "@__thumb", ".streams"),  # QNAP
        *("CaptureOne", "Lightroom Settings", "Adobe Bridge Cache", ".BridgeCache", ".BridgeCacheT", ".BridgeSort"),
        *(".picasaoriginals", ".picasa.ini", "Picasa.ini", ".dropbox", ".dropbox.cache", ".stfolder", ".stversions"),
        *(".tmp.driveupload", ".tmp.drivedownload", "CANONMSC", "EOSMISC", "AVF_INFO", "NIKON001.DSC"),
    )
)
"""Files and folders made by operating systems, storage devices, editors and cameras; compared case-insensitively."""
_BACKUP_SUFFIXES = ("_original", "~")
"""Suffixes that ExifTool and editors give to the backup of a file that they changed."""
_SYSTEM_EXTENSIONS = (
    *(".lrdata", ".lrcat-data", ".lrlibrary", ".cocatalog", ".cosession", ".photoslibrary", ".aplibrary", ".app", ".bundle"),
    *(".noindex", ".lrcat-wal", ".lrcat-shm", ".lrcat.lock"),
)
# fmt: on
_IN_TRANSFER = tuple(
    re.compile(
        f"{before}(?P<photo>[^/]+(?:{'|'.join(map(re.escape, sorted(PHOTO_EXTENSIONS)))})){after}", re.IGNORECASE
    )
    for before, after in (
        (
            r"(?:\.syncthing\.|~syncthing~|~)",
            r"\.tmp",
        ),  # Syncthing; `~NAME.tmp` and `.~NAME` are not synchronised by Dropbox
        (r"\.~", ""),
        (r"\.pending-[0-9]+-", ""),  # Android
        (r"\.in\.", r"\.?"),  # ProFTPD, lftp
        (r"\.azdownload-[0-9a-f-]{36}-", ""),  # AzCopy
        (r"\.", r"\.[0-9a-z]{6}"),  # rsync
        (r"\.", r"\.~[0-9a-f]+"),  # Nextcloud and ownCloud
        # Chrome and Edge, Opera, Safari, Firefox, curl and KDE, Internet Explorer, WinSCP, MinIO's client, many others.
        (r"\.?", r"\.(?:crdownload|opdownload|download|part|partial|filepart|part\.minio|te?mp)"),
        (r"\.?", r"\.(?:!sync|!ut|!qb|bc!)"),  # Resilio Sync and BitTorrent clients
        (r"\.?", r"\.(?:icloud|nextcloud|owncloud)"),  # placeholders of files that are still on the server
        (r"\.?", r"\.[0-9a-f]{8}(?:\.partial)?"),  # AWS CLI; rclone
        (r"\.?", r"_\.gstmp"),  # gcloud storage
        (r"\.?", r"~rf[0-9a-f]+\.tmp"),  # a file that Windows is replacing, as OneDrive does
    )
)
"""Names that programs give to a file while it is being copied, downloaded or synchronised, with that of the photo in them."""
_HEIF_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis", b"miaf")
)


def is_system(name: str) -> bool:
    """Whether a file or folder was made by an operating system or a program for its own use."""
    low = name.casefold()
    return low in _SYSTEM or low.startswith(("._", "@eadir", "~$")) or low.endswith(_SYSTEM_EXTENSIONS)


def is_visible(name: str) -> bool:
    """Whether a file or folder is meant for people: neither hidden nor made by a system."""
    return not name.startswith(".") and not is_system(name)


def is_photo(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is a photo.

    Args:
        name: The file's name.
        head: Returns the file's first `HEAD_BYTES` bytes; called only when the name does not decide.
    """
    extension = PurePosixPath(name).suffix.lower()
    if extension in PHOTO_EXTENSIONS:
        return True
    if extension in OTHER_EXTENSIONS or name.endswith(_BACKUP_SUFFIXES) or photo_in_transfer(name) is not None:
        return False
    return begins_as_photo(head())


def photo_in_transfer(name: str) -> str | None:
    """The name of the photo that a file will become once its transfer has finished; None for all other files.

    Only names of the programs in `_IN_TRANSFER` around a photo's whole name count: ``lamp-5.jpg.crdownload``, ``.lamp-5.jpg.icloud``.
    """
    if name.startswith("._"):
        return None  # macOS keeps attributes of any file under such a name
    return next((found["photo"] for form in _IN_TRANSFER if (found := form.fullmatch(name)) is not None), None)


def unfinished(names: Iterable[str], photos: Collection[str]) -> list[str]:
    """Those of unused files that are photos whose transfer has not finished.

    What a transfer that did finish, or an editor, has left beside the photo itself does not count.

    Args:
        names: Names of unused files, or paths relative to a source; folders end with '/', as Safari makes them.
        photos: Names or paths of the photos that are there.
    """
    there = {photo.casefold() for photo in photos}
    found = []
    for name in names:
        folder, slash, last = name.rstrip("/").rpartition("/")
        photo = photo_in_transfer(last)
        if photo is None or f"{folder}{slash}{photo}".casefold() in there:
            continue
        if all(map(is_visible, folder.split("/"))):
            found.append(name)
    return found


def refuse_unfinished(names: Iterable[str], photos: Collection[str]) -> None:
    """Refuse photos of which some are still being transferred; see `unfinished`.

    Raises:
        InputError: `capture.unfinished`.
    """
    if found := unfinished(names, photos):
        listed = ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
        beside = f" beside {len(photos)} that are there" if photos else ""
        raise InputError("capture.unfinished", f"{len(found)} photos whose transfer has not finished{beside}: {listed}")


def is_photo_file(path: Path) -> bool:
    """Whether a local path is a photo; False for folders and files that cannot be read."""
    return path.is_file() and is_photo(path.name, lambda: _head(path))


def photos_below(folder: Path) -> list[Path]:
    """All visible photos below a local folder, in no particular order."""
    return [path for path in folder.rglob("*") if _is_visible_photo(path, folder)]


def not_photos(folder: Path) -> list[str]:
    """Paths of all files below a local folder that are not visible photos, relative to it, sorted."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files if not _is_visible_photo(path, folder))


def begins_as_photo(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a format that `gapray.capture.decode` reads."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS)
        or (head[:2] == b"BM" and head[6:10] == b"\0\0\0\0")
    )


def counted(names: Iterable[str]) -> dict[str, int]:
    """Count unused files and folders by kind.

    Args:
        names: Names of files, and of folders with a trailing '/'.

    Returns:
        Kind -> count, the commonest first. A kind is a file extension as written, a folder's name with '/', ``system``, ``hidden``,
        or the whole name of a file without an extension.
    """
    return dict(sorted(Counter(map(_kind, names)).items(), key=lambda item: (-item[1], item[0])))


def described(counts: dict[str, int]) -> str:
    """Counts by kind as a message: ``ignored: 3 (2 .AAE, 1 .txt)``."""
    return f"ignored: {sum(counts.values())} ({', '.join(f'{count} {kind}' for kind, count in counts.items())})"


def no_photos(place: str, names: Collection[str]) -> InputError:
    """The error `capture.no_photos` (or `capture.unfinished`) of a place, which says what is there instead.

    Args:
        place: Where photos were expected.
        names: Names of the files there, and of folders with a trailing '/'.
    """
    try:
        refuse_unfinished(names, ())
    except InputError as error:
        return error
    message = f"there is no photo in {place}"
    if names:
        message += f"; {described(counted(names))}"
    if any(PurePosixPath(name).suffix.lower() in RAW_EXTENSIONS for name in names):
        message += ". Raw photos are not opened: develop them, and export them as JPEG or TIFF"
    return InputError("capture.no_photos", message)


def _is_visible_photo(path: Path, folder: Path) -> bool:
    return all(map(is_visible, path.relative_to(folder).parts)) and is_photo_file(path)


def _kind(name: str) -> str:
    parts = name.rstrip("/").split("/")
    last = parts[-1]
    if any(map(is_system, parts)):
        return "system"
    if any(part.startswith(".") for part in parts):
        return "hidden"
    return f"{last}/" if name.endswith("/") else PurePosixPath(last).suffix or last


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""
