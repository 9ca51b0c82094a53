"""gapray's exception hierarchy. Every error has a stable code, a message with its cause, and a remedy.

The same code appears on the command line, in the `rejects` table and in HTTP responses. `docs/errors.md` lists all codes; a
test keeps it in sync with this module.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

REMEDIES: dict[str, str] = {
    "capture.not_found": "Check the path or URI, and the credentials of the bucket.",
    "capture.unsupported_source": "Give a folder, a .zip or a manifest (.parquet); unpack other archives first.",
    "capture.unreadable": "Check the permissions of the folder or file, and the disk or bucket, then run again.",
    "capture.source_is_output": "Name a folder of its own for --out (--to, --report), beside the photos or in a new folder below them.",
    "capture.no_photos": "Put the photos of one product in this folder: JPEG, PNG, WebP, HEIC, TIFF or BMP.",
    "capture.unfinished": "Wait until copying, downloading or synchronising has finished, then run again; delete the files that are named if they are left over.",
    "capture.ambiguous_layout": "Pass --layout product (this folder is one product) or --layout products.",
    "capture.ambiguous_azimuths": "Rename the photos by degrees (_000 … _315), or add a capture.csv with file and azimuth.",
    "data.missing_column": "Rename or add columns before the processor, for example by Dataset.rename_columns.",
    "data.reserved_column": "Rename or drop that column before the processor, for example by Dataset.rename_columns.",
    "capture.same_id": "Give each product a name of its own: rename the video, the export or the folder of photos.",
    "capture.duplicate_azimuth": "Keep one photo an angle; put each product in a folder of its own.",
    "capture.missing_views": "Take the missing photos, or pass --allow-missing to use the others as they are.",
    "capture.invalid_table": "Write capture.csv (or .json) with the columns file and azimuth, in degrees.",
    "capture.invalid_product_id": "Rename the folder: letters, digits, '.', '_' and '-', at most 128, a letter or digit first.",
    "capture.invalid_name": "Rename the files in UTF-8, for example by `convmv -f latin1 -t utf8 -r --notest FOLDER`.",
    "capture.table_too_large": "Keep the columns file and azimuth and one row a photo in capture.csv (or .json).",
    "capture.unsafe_path": "Keep the photos inside the product's folder, with no links out of it and no '..' in names.",
    "capture.invalid_archive": "Make the zip file again; it must be a plain, unencrypted zip.",
    "capture.archive_too_large": "Pack the photos alone, one folder a product; of very many products give the folder, or several archives.",
    "capture.invalid_manifest": "Write the manifest by `gapray manifest`, or see docs/architecture.md for its columns.",
    "capture.out_not_empty": "Name a new folder; nothing is ever overwritten.",
    "capture.write_failed": "Free space on the disk, check its permissions, then run again.",
    "product.source_changed": "If it is another product, give it an id of its own (the name of its folder) or another catalogue (--out), and package both again.",
    "image.unreadable": "Check that the file can be read from here, then run again.",
    "image.empty": "The upload or the copy was cut off: take the file from the camera again.",
    "image.truncated": "The upload or the copy was cut off or damaged: take the file from the camera again.",
    "image.unsupported": "Save the photo as JPEG, PNG, WebP, HEIC, TIFF or BMP with 8 or 16 bits a channel.",
    "image.too_many_bytes": "Save a smaller file, or raise --set decode.max_bytes.",
    "image.too_many_pixels": "Save a smaller photo, or raise --set decode.max_pixels.",
    "image.too_small": "Use a photo of at least decode.min_side pixels on its shorter side.",
    "image.too_many_frames": "Save one still a view; animations and multi-page files are not photos.",
    "image.blank": "Check that the file is the right one, and that the lens was uncovered and the exposure right; take the photo again.",
    "image.transparent": "Export the cut-out again: its transparency (alpha) must be opaque where the product is; or give the photo itself.",
    "image.few_colours": "Give a photo in colour or grey with 8 bits a channel; scan again in colour, not as line art or black and white.",
    "image.hdr": "Save the photo in standard range (sRGB or Display P3), or as HEIC, whose HDR is read.",
    "image.bad_profile": "Save the photo again with the sRGB profile.",
    "mask.too_small": "Move closer, use a plainer backdrop, or choose another model by --set mask.model.",
    "mask.too_large": "Step back so that the backdrop is seen all round, or choose another mask model.",
    "mask.inverted": "Invert the file, and those of the other views: white is the product and black is what is behind it.",
    "polycam.not_an_export": "Export 'raw data' from Polycam: developer mode on before a LiDAR or room capture, then give the folder or the zip.",
    "polycam.no_keyframes": "Export the raw data again, with the folder keyframes/images or keyframes/corrected_images.",
    "polycam.too_many_keyframes": "Give a shorter session; one turn round a product has 50 to 700 keyframes.",
    "polycam.invalid_camera": "Export the raw data again; if it happens twice, take the keyframe that is named out of all folders.",
    "polycam.size_mismatch": "Export the raw data again; its photos must not be resized or turned.",
    "polycam.invalid_depth": "Export the raw data again, or take the folders keyframes/depth and keyframes/confidence out.",
    "polycam.no_orbit": "Walk round the product with the camera aimed at it, in one turn at one height.",
    "polycam.unknown_front": "Name a photo of the export as the front, or leave it out to begin at the first.",
    "polycam.gap": "Capture again and walk past the side that is named, or ask for fewer views.",
    "check.nothing_to_fix": "Lay the printed sheet (`gapray capture sheet`) under the product, or name the photos by degrees.",
    "slate.again": "Keep the turn that you want and move the other photos away, or give the second slate another text.",
    "slate.no_id": "Make the slate of letters a-z, digits, dots, dashes and underscores, at most 128.",
    "slate.same_id": "Give each product's slate a text whose last part (after the last / of an address; of a GS1 Digital Link the GTIN) is its own.",
    "slate.none": "Photograph a QR code or barcode of the product before its photos; gapray capture day --help.",
    "sheet.not_seen": "Keep the sheet flat and at least two of its markers sharp in each photo, or name the photos by degrees.",
    "turn.too_long": "Cut the video to one or two turns of the table, at most 90 seconds or so.",
    "turn.no_motion": "Film the turning product with the phone held still; see docs/capture.md.",
    "turn.turns_back": "Film one turn in one direction, or cut the video where the product turns back.",
    "turn.incomplete": "Film a little more than one whole turn, so that the first view comes back.",
    "turn.unobservable": "Give photos named by degrees, or put the printed sheet (`gapray capture sheet`) under the product.",
    "turn.covered": "Film again with hands out of the picture, or a second turn.",
    "orbit.too_few_views": "Take at least three photos round the product, better eight.",
    "orbit.empty_hull": "Look at the masks (`gapray catalog sheet`): they must show one product, at the azimuths that are named.",
    "video.unsupported": "Change the number of frames, the size or the preset; see `gapray presets`.",
    "video.unreadable": "Check that the file is a whole mp4, webm, gif or webp with a video stream.",
    "video.unknown_colours": "Convert the footage to BT.709 or HLG, as the camera's maker describes, or film without log.",
    "video.too_many_pixels": "Scale the video down, for example by `ffmpeg -i IN -vf scale=1280:-2 OUT`, or cut it to one turn.",
    "video.too_long": "Cut the video to one or two turns, at most 90 seconds or so.",
    "video.unknown_preset": "See `gapray presets` for the names.",
    "video.write_failed": "Free space on the disk or in the bucket, check its permissions, then run again.",
    "still.no_mask": "Package the product again; this view has no product in it.",
    "still.aspect": "Crop the photo; stills keep its aspect.",
    "still.empty_prompt": 'Give the scene a prompt, such as "{product} on a table".',
    "still.prompt_too_long": "Say it in fewer words: what comes late in a long prompt hardly counts.",
    "scene.unknown": "See `gapray stills --list` for the names, or give a YAML file.",
    "score.no_video": "Render with a preset that has an mp4, webp, gif or frames, such as --preset web.",
    "score.no_truth": "Pass --truth with photos at angles that the package lacks, or package at least four views.",
    "score.not_this_product": "Check that the video shows this product; nothing is scored against another one's photos.",
    "score.not_as_drawn": "Render the video again, then score it; or pass --truth with photos that the package lacks.",
    "score.too_short": "Use a video of at least two different frames that turns round the product.",
    "report.no_approval": "Pass --approved with the CSV that the report's page downloads: columns product_id, video_key, decision.",
    "config.invalid": "See `gapray package --help` and docs/architecture.md for the settings.",
    "config.secret": "Take it out of commands, configs and their args: set it in the environment of every node (a Kubernetes secret, or before `ray start`), or by a file there.",
    "profile.unknown": "See `gapray models list` for the profiles.",
    "model.unknown": "See `gapray models list` for the cards.",
    "model.unavailable": "Fetch the file elsewhere and point GAPRAY_MODELS at its folder, or pull where a source is in reach.",
    "model.hash_mismatch": "Delete the file and pull again; if it happens twice, do not use that source.",
    "model.mixed": "Give all machines the same files: one mirror (GAPRAY_MODELS), or the driver's models.lock copied into each GAPRAY_CACHE before the first pull.",
    "model.wrong_part": "Pull the card again, or name a card of the right family; see `gapray models list`.",
    "model.out_of_memory": "Use a larger GPU, fewer frames, a smaller size or --set video.animatediff.decode_chunk=4.",
    "model.failed": "See the log of the run; run `gapray doctor`.",
    "model.write_failed": "Set GAPRAY_CACHE to a folder that can be written to, with room for the weights; default ~/.cache/gapray.",
    "resource.insufficient": "Use a larger cluster or a profile that asks for less; where nodes come by themselves say how many may: --set run.max_cpus=256 --set run.max_gpus=8.",
    "cluster.unreachable": "Check --address or RAY_ADDRESS (HOST:6379 or ray://HOST:10001; a dashboard's http address is for `gapray submit`), the port-forward, and the token (RAY_AUTH_MODE=token); without either a run uses this machine.",
    "cluster.not_started": "Free space in /dev/shm and in Ray's folder (/tmp; RAY_TMPDIR names another), check its permissions, see `gapray doctor`; on a machine that is busy, run again later.",
    "cluster.refused": "Check the token (RAY_AUTH_MODE=token, `ray get-auth-token`), and that client and cluster run the same Ray.",
    "cluster.failed": "Give the same command again: what was committed is kept and skipped. If it ends so twice, see docs/operations.md.",
    "cluster.disk_full": "Free space on the node's disk in Ray's folder (/tmp; RAY_TMPDIR names another), then give the same command again.",
    "cluster.stalled": "See `ray status` for what the run waits for, then give the same command again; for longer waits --set run.no_progress_s=86400.",
    "catalog.not_found": "Check the catalogue's path; `gapray package SRC --out CATALOG` makes one.",
    "catalog.incompatible": "Read this catalogue with the gapray release that wrote it.",
    "catalog.newer_format": "Upgrade gapray: a later release wrote this catalogue.",
    "catalog.older_format": "Run `gapray catalog compact` of a release that reads both formats, or package the photos into a new catalogue.",
    "catalog.product_not_found": "See `gapray catalog show CATALOG` for the products it holds.",
    "catalog.run_not_found": "See `gapray runs list CATALOG` for the runs it remembers.",
    "catalog.invalid_query": 'Correct the query: `gapray catalog sql CATALOG "SHOW TABLES"` names the tables, "DESCRIBE videos" the columns of one.',
    "catalog.query_failed": "Check the paths that the query names, and the room on the disk and in memory, then run it again.",
    "catalog.file_missing": "Run the command that made it again (`gapray render`, `gapray stills`, `gapray package`): it makes what is missing.",
    "catalog.unreadable": "Check the permissions of the folder or file, and the disk or bucket, then run again.",
    "catalog.write_failed": "Name a folder, not a file; free space on the disk or in the bucket, check its permissions, then run again.",
    "gap.invalid_folder": "Compare the folder with the layout in docs/architecture.md; `gapray export` writes one.",
    "gap.other_product": "Name a new folder, or that of an earlier export of this product, which is replaced.",
    "gap.write_failed": "Free space on the disk, check its permissions, then export again.",
    "serve.write_failed": "Set GAPRAY_STATE to a folder that can be written to (default ~/.local/share/gapray), or name all places: --jobs, --artifacts and GAPRAY_WEBHOOK_SECRET.",
    "serve.unavailable": "Wait as `Retry-After` says and send the request again; see the server's log.",
    "serve.busy": "Wait as `Retry-After` says and send the request again; more replicas of the ingress answer more at once.",
    "serve.cannot_bind": "Stop what listens there, or pass another --port (and a --host that is an address of this machine).",
    "file.write_failed": "Free space on the disk, check the path and its permissions, then run again.",
    "file.failed": "Check that the path is there and its permissions, then run again.",
    "auth.missing": "Send the header `Authorization: Bearer <key>`; `gapray keys create` makes a key.",
    "auth.invalid": "Check the key, or make a new one by `gapray keys create`.",
    "auth.forbidden": "Use a key with the scope that is named; see `gapray keys create --help`.",
    "auth.unknown_key": "See `gapray keys list`.",
    "auth.no_keys": "Make a key by `gapray keys create NAME`, bind to 127.0.0.1, or pass --insecure if nobody else can reach it.",
    "rate.exceeded": "Wait as `Retry-After` says; send a key, or ask for one with a higher limit.",
    "queue.full": "Wait as `Retry-After` says and send the request again.",
    "queue.key_full": "Wait as `Retry-After` says until jobs of this key have begun, or raise limits.queued_per_key.",
    "request.host_refused": "Call it as localhost or by its address, make a key (`gapray keys create`), or list the name and port in `hosts`.",
    "request.origin_refused": "List the page's origin in `cors_origins` if it may call, or make a key (`gapray keys create`).",
    "request.invalid": "Correct the field that is named; see /openapi.json.",
    "request.not_found": "See /openapi.json for the paths.",
    "request.wrong_method": "See /openapi.json for the methods.",
    "request.no_photos": "Send the photos as `input_reference[]` or `views`, or as one zip.",
    "request.path_refused": "Send the bytes, as a file or base64, or a URL; the server opens no paths.",
    "request.too_large": "Send smaller photos, or URLs of them.",
    "request.too_slow": "Send smaller photos, or URLs of them, or over a faster line.",
    "request.too_many_images": "Send fewer photos; eight are the norm.",
    "request.unsupported": "See /openapi.json for what is there.",
    "request.unsupported_media": "Send multipart/form-data or application/json, uncompressed.",
    "request.idempotency_mismatch": "Use a new idempotency key for a new request.",
    "url.refused": "Use a public http(s) URL, or let the operator allow the network by urls.private.",
    "url.failed": "Check that the URL answers 200 within the limits, without a login.",
    "job.not_found": "Check the id and the key: jobs belong to the key that submitted them.",
    "job.not_ready": "Ask for the job's state until it is completed.",
    "job.no_such_file": "See `files` of the finished job.",
    "job.not_failed": "Only failed jobs can be tried again.",
    "job.failed": "See the job's error; submit it again once the cause is gone.",
    "job.cancelled": "Submit it again if it is wanted after all.",
    "job.expired": "Results are kept for jobs.keep_s; submit the job again.",
    "job.unreadable": "Submit it again: its row was damaged, or written by another gapray. The server's log says how.",
    "job.timed_out": "Ask for fewer frames or a smaller size, or raise jobs.timeout_s.",
    "job.out_of_memory": "Send smaller photos, or ask for fewer frames or a smaller size; or raise memory_bytes of the server's worker that its log names.",
    "job.attempts_exhausted": "See the server's log for what killed its workers, then retry the job.",
    "jobs.store_unusable": "Set GAPRAY_JOBS_URL to sqlite:///path or postgresql://…; SQLite serves one machine only.",
    "jobs.newer_schema": "Use the gapray release that changed the database, or a newer one; to go back, restore the database from a backup.",
    "jobs.unavailable": "Check the jobs' database; what was accepted is safe and goes on when it is back.",
    "artifacts.unusable": "Set GAPRAY_ARTIFACTS to a folder or an fsspec URI; a local folder serves one machine only.",
    "artifacts.failed": "Free space or check the permissions of GAPRAY_ARTIFACTS, then send the request again.",
    "internal.error": "This is a defect of gapray: please report it with the message and the photos.",
}
"""Error code -> what the user can do about it."""


class GaprayError(Exception):
    """Base class of all errors that gapray raises deliberately.

    Args:
        code: A key of `REMEDIES`.
        message: One sentence that says what is wrong with which file, product or setting.
    """

    exit_code: int = 1

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.remedy = REMEDIES[code]
        if code.endswith(".write_failed"):
            self.exit_code = 1  # a failed write is not the fault of the input

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    def __reduce__(self) -> tuple[type[GaprayError], tuple[str, str]]:
        # `args` cannot be used: Ray Data appends advice to it.
        return type(self), (self.code, self.message)


class InputError(GaprayError):
    """An unusable input: `capture.*`, `image.*`, `mask.*`, `gap.*`, `orbit.*`, `video.*`, `score.*`, `report.*`.

    Polycam exports raise `polycam.*`; the server also raises `request.*`, `url.*` and `job.*`.
    """

    exit_code = 4


class ConfigError(GaprayError):
    """Invalid or unknown settings (`config.*`, `profile.*`; for the server `serve.*`, `jobs.*`, `artifacts.*`, `auth.*`)."""

    exit_code = 2


class ModelError(GaprayError):
    """Weights that cannot be found or fetched, or a network that failed (`model.*`)."""


class ResourceError(GaprayError):
    """A machine or cluster that lacks resources (`resource.*`), or cannot be reached or failed (`cluster.*`)."""


class ServeError(GaprayError):
    """A request that the server refuses or cannot serve now: `auth.*`, `rate.*`, `queue.*`, `jobs.*`, `artifacts.*`."""


class CatalogError(GaprayError):
    """A catalogue, or a product in it, that cannot be read or written (`catalog.*`)."""

    exit_code = 4


class FileError(GaprayError):
    """A local file or folder outside a catalogue that cannot be read or written (`file.*`)."""


class InternalError(GaprayError):
    """An unexpected error, wrapped to give it a code (`internal.error`)."""


_OUT_OF_MEMORY_ERRNOS = {errno.ENOMEM, errno.EAGAIN}
"""EAGAIN: no memory for another thread's stack (pthread_create(3))."""
_OUT_OF_MEMORY_MESSAGES = (
    "can't allocate memory",
    "Insufficient memory",
    "bad_alloc",
    "bad allocation",
    "Failed to allocate memory",
    "can't start new thread",
    "out of memory when reading",  # Pillow's decoders
    "Memory allocation error",  # libheif
    "Out of memory",  # libavif
)
_WRITE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors that only a write can cause."""
_PATH_ERRNOS = {
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EMFILE,
    errno.ENFILE,
    errno.EIO,
    errno.ESTALE,
}
"""Errors caused by a path, its permissions or its disk."""


@contextmanager
def writing(kind: type[GaprayError], code: str, place: object) -> Iterator[None]:
    """Convert an `OSError` raised inside the block to a gapray error that names the target and the cause.

    Args:
        kind: Class of the error to raise.
        code: Its code, which ends with ``.write_failed``.
        place: What is being written: a path, or a name that the user knows.

    Raises:
        GaprayError: An error of that class.
    """
    try:
        yield
    except OSError as error:
        raise kind(code, f"{place}: {error}") from error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether `error`, or an error in its chain of causes, is a failed allocation of host memory.

    torch, OpenCV and ONNX Runtime raise their own exception types, which only their messages identify.
    """
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OUT_OF_MEMORY_ERRNOS):
            return True
        if not isinstance(error, GaprayError) and any(text in str(error) for text in _OUT_OF_MEMORY_MESSAGES):
            return True
        error = error.__cause__
    return False


def as_gapray_error(error: Exception) -> GaprayError:
    """Convert any exception to a `GaprayError`.

    A `GaprayError` is returned as is. Failed allocations become `model.out_of_memory` (GPU) or `job.out_of_memory` (host), file
    system errors a `FileError`, and everything else an `InternalError`.
    """
    if isinstance(error, GaprayError):
        return error
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        return ModelError("model.out_of_memory", str(error).split(".", maxsplit=1)[0])
    if is_out_of_memory(error):
        return ServeError("job.out_of_memory", "the work takes more memory than a worker may have")
    if isinstance(error, OSError) and error.errno in _WRITE_ERRNOS:
        return FileError("file.write_failed", str(error))
    if isinstance(error, OSError) and error.errno in _PATH_ERRNOS:
        return FileError("file.failed", str(error))
    return InternalError("internal.error", f"{type(error).__name__}: {error}")
