import base64
import io
import json
import zipfile

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from gapray.errors import ConfigError, InputError
from gapray.serve.jobs import GenerationParams
from gapray.serve.making import preset_for
from gapray.video.decode import read_frames
from gapray.video.encode import encode_mp4, export, gif_delays_ms
from gapray.video.external import letterboxed
from gapray.video.presets import Output, Preset, preset_named, presets
from gapray.video.provenance import XMP_UUID, Provenance
from tests.make import photo

PROVENANCE = Provenance("sku-1", "compositeCapture", {"software": "gapray test", "seed": 3})
BARS = np.arange(24) * 4


def turn(frames=24, side=64):
    """A bright bar that walks once across a grey picture."""
    images = np.full((frames, side, side, 3), 90, np.uint8)
    for index in range(frames):
        at = index * side // frames
        images[index, :, at : at + 4] = (250, 60, 20)
    return images


def made(name, frames=None, **options):
    return export(turn() if frames is None else frames, preset_named(name), PROVENANCE, **options)


def opened(data, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_web_is_h264_that_plays_everywhere(tmp_path):
    files = made("web")
    assert set(files) == {"turntable.mp4", "poster.jpg", "provenance.json"}
    data = files["turntable.mp4"]
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded
    with av.open(str(opened(data, tmp_path, "a.mp4"))) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 12 and stream.frames == 24
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    where = [int(frame[32, :, 0].astype(int).argmax()) for frame in decoded]
    assert where == sorted(where) and where[0] < 4 and where[-1] > 58  # in order, in one direction
    assert np.abs(decoded[5].astype(int) - turn()[5]).mean() < 6


def test_provenance_is_in_the_files_and_beside_them():
    files = made("web")
    assert b"digitalsourcetype/compositeCapture" in files["turntable.mp4"]
    assert XMP_UUID.bytes in files["turntable.mp4"]
    assert b"digitalsourcetype/compositeCapture" in Image.open(io.BytesIO(files["poster.jpg"])).info["xmp"]
    body = json.loads(files["provenance.json"])
    assert body["seed"] == 3 and body["digital_source_type"].endswith("/compositeCapture")
    assert Provenance.from_sidecar(files["provenance.json"].decode()) == PROVENANCE


def test_names_cannot_break_out_of_the_packet_or_the_page():
    evil = Provenance("a</script><b>&", "trainedAlgorithmicMedia", {})
    assert b"<b>" not in evil.xmp()
    page = export(turn(4), preset_named("spin"), evil)["viewer.html"].decode()
    assert page.count("</script>") == 1


def test_odd_sides_are_made_even(tmp_path):
    path = opened(encode_mp4(turn(4, 33), fps=8), tmp_path, "odd.mp4")
    assert read_frames(path)[0].shape == (34, 34, 3)


@given(st.integers(1, 200), st.floats(1, 50))
def test_gif_delays_add_up(frames, fps):
    delays = gif_delays_ms(frames, fps)
    assert len(delays) == frames and all(delay >= 20 and delay % 10 == 0 for delay in delays)
    assert abs(sum(delays) - 1000 * frames / fps) <= 5.0001


@pytest.mark.parametrize(("preset", "name"), [("gif", "turntable.gif"), ("webp", "turntable.webp")])
def test_animations_have_all_frames_and_loop(preset, name):
    image = Image.open(io.BytesIO(made(preset)[name]))
    assert image.n_frames == 24 and image.info["loop"] == 0
    total = 0
    for index in range(24):
        image.seek(index)
        image.load()
        total += image.info["duration"]
    assert total == pytest.approx(24000 / (8 if preset == "gif" else 12), abs=20)


def test_spin_has_frames_a_sprite_and_a_self_contained_page():
    files = made("spin")
    assert sum(name.startswith("frames/") for name in files) == 24
    assert Image.open(io.BytesIO(files["sprite.jpg"])).size == (6 * 64, 4 * 64)
    page = files["viewer.html"].decode()
    assert page.count("data:image/jpeg;base64,") == 24
    assert "http" not in page.replace("http://ns.adobe.com", "")  # loads nothing from anywhere
    assert "__FACTS__" not in page


def test_amazon_has_its_allowed_frame_counts():
    files = made("amazon-360")
    with zipfile.ZipFile(io.BytesIO(files["amazon-360.zip"])) as archive:
        names = archive.namelist()
        assert len(names) == 24 and names[0] == "sku-1_01.jpg"
        assert Image.open(io.BytesIO(archive.read(names[0]))).size == (1500, 1500)
    assert made("amazon-360")["amazon-360.zip"] == files["amazon-360.zip"]
    with pytest.raises(InputError) as error:
        made("amazon-360", turn(20))
    assert error.value.code == "video.unsupported"


@pytest.mark.parametrize(("preset", "size"), [("amazon-video", (1280, 720)), ("social-9x16", (1080, 1920))])
def test_padded_videos_last_long_enough(preset, size, tmp_path):
    files = made(preset, background=(255, 255, 255))
    [name] = [file for file in files if file.endswith(".mp4")]
    with av.open(str(opened(files[name], tmp_path, "b.mp4"))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == size
        assert float(stream.average_rate) >= 23.976
        assert stream.frames / float(stream.average_rate) >= 6
        first = next(container.decode(stream)).to_ndarray(format="rgb24")
    assert first[2, 2].min() > 245  # the padding is the background


def test_every_preset_makes_its_files():
    for name, preset in presets().items():
        files = export(turn(), preset, PROVENANCE)
        assert len(files) >= 2 and all(files.values()), name
    with pytest.raises(ConfigError) as error:
        preset_named("betamax")
    assert error.value.code == "video.unknown_preset"


def test_png_frames_keep_every_pixel():
    preset = Preset(name="x", description="x", files=(Output(kind="frames", name="{index:02d}.png"),))
    files = export(turn(3), preset, PROVENANCE)
    image = Image.open(io.BytesIO(files["01.png"]))
    assert np.array_equal(np.asarray(image), turn(3)[1])
    assert "compositeCapture" in image.text["XML:com.adobe.xmp"]


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
def test_letterboxing_keeps_aspect_and_fills(width, height, w, h):
    image = np.zeros((h, w, 3), np.uint8)
    boxed = letterboxed(image, width, height, (255, 255, 255))
    assert boxed.shape == (height, width, 3)
    rows, columns = np.flatnonzero((boxed == 0).all((1, 2)) | (boxed == 0).any((1, 2))), (boxed == 0).any((0, 2)).sum()
    assert columns == width or len(rows) == height


def test_encoding_is_deterministic():
    """x264's macroblock trees read uninitialized memory, but rarely: so the options that x264 embeds are checked."""
    small = np.stack([photo(45 * step, size=96) for step in range(8)])
    data = encode_mp4(small, fps=12)
    assert b"mbtree=0" in data and b"mbtree=1" not in data
    assert encode_mp4(small, fps=12) == data


COLOURS = ((200, 30, 40), (30, 150, 60), (30, 60, 190), (240, 130, 20), (74, 203, 221), (255, 255, 255), (16, 16, 16), (128,) * 3, (255, 0, 0))  # fmt: skip


def patches(frames=24, side=96):
    third = side // 3
    rows = [np.repeat(np.array([COLOURS[at : at + 3]], np.uint8), third, 1) for at in (0, 3, 6)]
    return np.repeat(np.repeat(np.concatenate(rows), third, 0)[None], frames, 0)


ONLINE = preset_for(GenerationParams(fps=24, format="mp4"), 24)
WITH_MP4 = [one for one in (*presets().values(), ONLINE) if any(output.kind == "mp4" for output in one.files)]


@pytest.mark.parametrize("preset", WITH_MP4, ids=lambda preset: preset.name)
def test_colours_decode_as_drawn_in_every_player(ffmpeg, tmp_path, preset):
    """By FFmpeg's own programs: each stream and frame is tagged BT.709 in TV range, and decodes as that."""
    frames = patches()
    [output] = [output for output in preset.files if output.kind == "mp4"]
    path = opened(export(frames, preset, PROVENANCE)[output.name], tmp_path, "a.mp4")
    tags = "color_range,color_space,color_transfer,color_primaries"
    for what, entries in (("stream", f"stream={tags}"), ("frame", f"frame={tags}")):
        probe = ("ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", entries)
        probed = json.loads(ffmpeg(*probe, "-read_intervals", "%+#3", "-of", "json", path))[f"{what}s"]
        assert probed
        for entry in probed:
            assert [entry.get(tag) for tag in tags.split(",")] == ["tv", "bt709", "bt709", "bt709"]
    # One player that assumes BT.709, and one that reads the tags, by another library.
    asked = "scale=in_color_matrix=bt709:in_range=tv:out_range=pc:flags=accurate_rnd+full_chroma_int"
    for filters in (asked, "zscale=m=gbr:r=full"):
        command = ("ffmpeg", "-v", "error", "-i", path, "-frames:v", "2", "-vf", f"{filters},format=gbrp,format=rgb24")
        raw = ffmpeg(*command, "-f", "rawvideo", "-")
        wanted = frames[0] if output.size is None else letterboxed(frames[0], *output.size, (255, 255, 255))
        shown = np.frombuffer(raw, np.uint8).reshape(2, *wanted.shape)[1]
        flat = cv2.erode(wanted, np.ones((17, 17))) == cv2.dilate(wanted, np.ones((17, 17)))
        flat = flat.all(-1)
        assert flat.mean() > 0.25
        assert np.abs(shown[flat].astype(int) - wanted[flat]).max() <= 2


def test_a_plain_backdrop_keeps_its_colour_in_a_gif():
    """Regression: near-whites beside it once pulled the palette's white away from 255."""
    y, x = np.mgrid[:128, :128]
    away = np.hypot(x - 64, y - 64)
    frame = np.full((128, 128, 3), 255, np.uint8)
    ball = np.stack([250 - away * 3, 252 - away * 2, 251 - away], -1).clip(0, 255)
    frame[away < 40] = ball[away < 40]
    frames = np.stack([np.roll(frame, shift, 1) for shift in range(8)])
    image = Image.open(io.BytesIO(made("gif", frames)["turntable.gif"]))
    for index in range(8):
        image.seek(index)
        shown = np.asarray(image.convert("RGB"))
        plain = (frames[index] == 255).all(-1)
        assert (shown[plain] == 255).all()
        assert np.abs(shown[~plain].astype(int) - frames[index][~plain]).mean() < 4


@pytest.mark.parametrize("radius", [0.35, 0.49], ids=["backdrop", "mostly product"])
@pytest.mark.parametrize("preset", [*presets().values(), ONLINE], ids=lambda preset: preset.name)
def test_a_white_backdrop_is_white_in_every_format(ffmpeg, tmp_path, preset, radius):
    """Checked in the corners of frames with a near-white part on a black product that may outweigh the backdrop."""
    y, x = np.mgrid[:128, :128]
    away = np.hypot(x - 64, y - 64)
    frame = np.full((128, 128, 3), 255, np.uint8)
    frame[away < 128 * radius] = 5
    frame[40:60, 40:90] = np.linspace(235, 254, 50)[None, :, None] + np.array([0, 0.7, 0.2])
    files = export(np.stack([np.roll(frame, shift % 3, 1) for shift in range(24)]), preset, PROVENANCE)
    if preset.zip:
        with zipfile.ZipFile(io.BytesIO(files.pop(preset.zip))) as archive:
            files |= {name: archive.read(name) for name in archive.namelist()}
    if "viewer.html" in files:
        page = files.pop("viewer.html").decode()
        files["viewer.jpg"] = base64.b64decode(page.split("base64,")[1].split('"')[0])
    for name, data in files.items():
        if name.endswith(".json"):
            continue
        path = opened(data, tmp_path, name.replace("/", "-"))
        if name.endswith(".mp4"):
            command = ("ffmpeg", "-v", "error", "-i", path, "-vf", "zscale=m=gbr:r=full,format=gbrp,format=rgb24")
            ffmpeg(*command, tmp_path / f"{preset.name}-%03d.png")
            pictures = [Image.open(file) for file in sorted(tmp_path.glob(f"{preset.name}-*.png"))[::7]]
        else:
            pictures = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(path))]
        for picture in pictures:
            shown = np.asarray(picture)
            height, width = shown.shape[:2] if "sprite" not in name else (128, 128)
            side = min(height, width) // 16
            top, left = (height - min(height, width)) // 2, (width - min(height, width)) // 2
            assert (shown[top : top + side, left : left + side] == 255).all(), name
            assert (shown[:side, :side] == 255).all(), name


@pytest.mark.parametrize("size", [(321, 241), (322, 241), (321, 242), (320, 240)])
@pytest.mark.parametrize("kind", ["mp4", "webp", "gif"])
def test_a_file_has_the_size_that_its_output_says(kind, size, tmp_path):
    """What answers over HTTP say of a video is its output's size."""
    preset = preset_for(GenerationParams(width=size[0], height=size[1], format=kind), 8)
    data = export(turn(8), preset, PROVENANCE)[f"turntable.{kind}"]
    if kind == "mp4":
        with av.open(str(opened(data, tmp_path, "a.mp4"))) as container:
            shown = container.streams.video[0].width, container.streams.video[0].height
    else:
        shown = Image.open(io.BytesIO(data)).size
    assert shown == preset.files[0].size
    assert all(0 <= got - asked <= (kind == "mp4") for got, asked in zip(shown, size, strict=True))


@pytest.mark.parametrize(
    ("preset", "side", "photo_side", "words"),
    [
        ("amazon-360", 512, 300, ["shows 1500 px", "the photos have 300 px", "drawn at 512 px"]),
        ("amazon-360", 512, 3000, ["enlarges frames of 512 px to 1500 px", "--set orbit.size=1504"]),
        ("amazon-video", 720, 3000, []),
        ("amazon-360", 1504, 300, []),
        ("web", 512, 300, []),
    ],
)
def test_files_that_promise_more_detail_than_there_is_get_a_warning(preset, side, photo_side, words):
    warnings = preset_named(preset).enlargement_warnings(side, photo_side)
    assert len(warnings) == bool(words) and all(word in warnings[0] for word in words)
