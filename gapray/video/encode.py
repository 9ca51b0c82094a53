"""Write frames to the files that a preset lists. PyAV encodes H.264, Pillow everything else."""

from __future__ import annotations

import base64
import io
import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from gapray.errors import FileError, writing
from gapray.video.external import letterboxed
from gapray.video.presets import Output, Preset
from gapray.video.provenance import Provenance, with_xmp_box

AVCOL_SPC_BT709 = 1
WHITE = (255, 255, 255)
Frame = NDArray[np.uint8]
"""uint8 [H, W, 3], sRGB."""
Frames = NDArray[np.uint8]
"""uint8 [F, H, W, 3], sRGB."""


@dataclass(frozen=True)
class _Sized:
    """The frames of one file. Each is padded on access, so that at most one padded frame is held."""

    frames: Frames
    size: tuple[int, int] | None
    background: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Frame]:
        return map(self._padded, self.frames)

    def first(self) -> Frame:
        return self._padded(self.frames[0])

    def _padded(self, frame: Frame) -> Frame:
        if self.size is None or frame.shape[1::-1] == self.size:
            return frame
        return letterboxed(frame, *self.size, self.background)


def export(
    frames: Frames, preset: Preset, provenance: Provenance, *, background: tuple[int, int, int] = (255, 255, 255)
) -> dict[str, bytes]:
    """Make all files of a preset.

    Args:
        frames: uint8 [F, H, W, 3], one turn.
        preset: Lists the files.
        provenance: Written into each file that can hold it, and as `provenance.json`.
        background: sRGB colour of the padding.

    Returns:
        Relative file name -> content.

    Raises:
        InputError: `video.unsupported` when the destination does not take this number of frames.
    """
    preset.check_frames(len(frames))
    files = {
        name: data
        for output in preset.files
        for name, data in _ENCODERS[output.kind](_Sized(frames, output.size, background), output, provenance)
    }
    if preset.zip:
        files = {preset.zip: _zipped(files)}
    return files | {"provenance.json": provenance.sidecar()}


def encode_mp4(frames: Iterable[Frame], *, fps: float, crf: int = 18) -> bytes:
    """Encode H.264 in mp4: yuv420p, index at the front, odd sides padded by one pixel; BT.709 in TV range, tagged as such.

    Args:
        frames: uint8 [H, W, 3] each, of one size; at least one. They are encoded one by one, and none is kept.
        fps: Frames a second.
        crf: Constant rate factor; smaller means better quality and a larger file.
    """
    # To move the index to the front, FFmpeg reads the file again by its name.
    with (
        writing(FileError, "file.write_failed", tempfile.gettempdir()),
        tempfile.NamedTemporaryFile(suffix=".mp4") as file,
    ):
        _write_mp4(file.name, frames, fps, crf)
        return Path(file.name).read_bytes()


def _write_mp4(path: str, frames: Iterable[Frame], fps: float, crf: int) -> None:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
    rest = iter(frames)
    first = next(rest)
    height, width = (side + side % 2 for side in first.shape[:2])
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(
            "libx264",
            rate=Fraction(fps).limit_denominator(1001),
            options={
                "crf": str(crf),
                "preset": "medium",
                # Macroblock trees read memory that x264 never wrote, at small sizes, so equal frames gave unequal videos.
                # Without them a turntable is a quarter larger and 0.45 dB better at the same crf (samples, 512 px).
                "x264-params": "mbtree=0",
            },
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        # x264 and the container write the codec context's tags; colour names as in ITU-T H.273, which FFmpeg follows.
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709
        stream.codec_context.colorspace = AVCOL_SPC_BT709
        for image in chain([first], rest):
            even = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
                format="yuv420p",
                interpolation=exact,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.MPEG,
                dst_colorspace=Colorspace.ITU709,
                dst_color_primaries=ColorPrimaries.BT709,
                dst_color_trc=ColorTrc.BT709,
                threads=1,
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def gif_delays_ms(frames: int, fps: float) -> list[int]:
    """Duration of each frame of a GIF [ms]: GIF counts in 10 ms, so rounding errors are carried over, not repeated.

    The sum equals `frames` / `fps` to within 5 ms, and no delay is below 20 ms, which browsers slow down.
    """
    ends = [max(round(100 * (index + 1) / fps), 2 * (index + 1)) for index in range(frames)]
    return [10 * (end - begin) for begin, end in zip([0, *ends], ends, strict=False)]


def _mp4(frames: _Sized, output: Output, provenance: Provenance) -> Iterator[tuple[str, bytes]]:
    turns = max(1, math.ceil(output.min_s * output.fps / (len(frames) * output.hold)))
    shown = (frame for _ in range(turns) for frame in frames for _ in range(output.hold))
    data = encode_mp4(shown, fps=output.fps, crf=output.crf)
    yield output.name, with_xmp_box(data, provenance.xmp())


def _gif(frames: _Sized, output: Output, provenance: Provenance) -> Iterator[tuple[str, bytes]]:
    # One palette for all frames: colours that flicker between frames are more visible than slightly wrong ones.
    stride = max(1, round(math.sqrt(len(frames) / 8)))
    some = np.stack([frame[::stride, ::stride] for frame in frames])
    exact = sorted({WHITE, _commonest(some)})
    reduced = Image.fromarray(np.concatenate(list(some), axis=1)).quantize(256 - len(exact), Image.Quantize.MEDIANCUT)
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(reduced.getpalette() or []), *(level for colour in exact for level in colour)])
    images = [_indexed(frame, palette, exact) for frame in frames]
    delays = gif_delays_ms(len(frames), output.fps)
    comment = json.dumps({"digital_source_type": provenance.source_type, "product_id": provenance.product_id})
    yield (
        output.name,
        _saved(images[0], "GIF", save_all=True, append_images=images[1:], duration=delays, loop=0, comment=comment),
    )


def _commonest(frames: Frames) -> tuple[int, int, int]:
    """The most frequent colour: the backdrop, if it is plain."""
    red, green, blue = np.moveaxis(frames.astype(np.uint32), -1, 0)
    colours, counts = np.unique(red << 16 | green << 8 | blue, return_counts=True)
    colour = int(colours[counts.argmax()])
    return colour >> 16, colour >> 8 & 255, colour & 255


def _indexed(frame: NDArray[np.uint8], palette: Image.Image, exact: Sequence[tuple[int, int, int]]) -> Image.Image:
    """Convert a frame to a palette that ends with the colours `exact`: dithered, except for pixels of exactly those colours."""
    image = Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    first = len(palette.getpalette() or []) // 3 - len(exact)
    for index, colour in enumerate(exact, first):
        image.paste(index, mask=Image.fromarray((frame == colour).all(-1)))
    return image


def _webp(frames: _Sized, output: Output, provenance: Provenance) -> Iterator[tuple[str, bytes]]:
    images = [Image.fromarray(frame) for frame in frames]
    yield (
        output.name,
        _saved(
            images[0],
            "WEBP",
            save_all=True,
            append_images=images[1:],
            duration=round(1000 / output.fps),
            loop=0,
            quality=output.quality,
            xmp=provenance.xmp(),
        ),
    )


def _stills(frames: _Sized, output: Output, provenance: Provenance) -> Iterator[tuple[str, bytes]]:
    for index, frame in enumerate(frames):
        name = output.name.format(index=index, number=index + 1, product_id=provenance.product_id)
        yield name, encoded_still(frame, name, output.quality, provenance)


def _sprite(frames: _Sized, output: Output, provenance: Provenance) -> Iterator[tuple[str, bytes]]:
    height, width = frames.first().shape[:2]
    rows = math.ceil(len(frames) / output.columns)
    sheet = np.full((rows * height, output.columns * width, 3), 255, np.uint8)
    for index, frame in enumerate(frames):
        top, left = index // output.columns * height, index % output.columns * width
        sheet[top : top + height, left : left + width] = frame
    yield output.name, encoded_still(sheet, output.name, output.quality, provenance)


def _poster(frames: _Sized, output: Output, provenance: Provenance) -> Iterator[tuple[str, bytes]]:
    yield output.name, encoded_still(frames.first(), output.name, output.quality, provenance)


def _viewer(frames: _Sized, output: Output, provenance: Provenance) -> Iterator[tuple[str, bytes]]:
    page = (resources.files("gapray.video") / "viewer.html").read_text()
    sources = [
        "data:image/jpeg;base64," + base64.b64encode(encoded_still(frame, ".jpg", output.quality, provenance)).decode()
        for frame in frames
    ]
    # "</" would end the script element that holds the data.
    height, width = frames.first().shape[:2]
    facts = {"title": provenance.product_id, "frames": sources, "side": [width, height]}
    yield output.name, page.replace("__FACTS__", json.dumps(facts).replace("</", "<\\/")).encode()


def encoded_still(image: NDArray[np.uint8], name: str, quality: int, provenance: Provenance) -> bytes:
    """Encode one picture with its XMP packet.

    Args:
        image: uint8 [H, W, 3].
        name: Its extension decides the format: PNG for ``.png``, WebP for ``.webp``, else JPEG.
        quality: Of JPEG and WebP, 0 … 100.
        provenance: Content of the packet.
    """
    picture = Image.fromarray(image)
    if name.endswith(".png"):
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", provenance.xmp().decode())
        return _saved(picture, "PNG", pnginfo=text)
    if name.endswith(".webp"):
        return _saved(picture, "WEBP", quality=quality, xmp=provenance.xmp())
    return _saved(picture, "JPEG", quality=quality, subsampling=0, xmp=provenance.xmp())


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _zipped(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            # A fixed date, so that equal frames make equal archives.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return sink.getvalue()


_Encoder = Callable[[_Sized, Output, Provenance], Iterator[tuple[str, bytes]]]
_ENCODERS: dict[str, _Encoder] = {
    "mp4": _mp4,
    "gif": _gif,
    "webp": _webp,
    "frames": _stills,
    "sprite": _sprite,
    "poster": _poster,
    "viewer": _viewer,
}
