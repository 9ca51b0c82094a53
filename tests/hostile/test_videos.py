"""Small videos that decode to gigabytes or refer to other files, and requests for very long videos."""

import shutil

import av
import numpy as np
import pytest
from PIL import Image

from gapray.capture.video import MAX_FRAME_BYTES, MAX_PIXELS, count_frames, frames_of
from gapray.errors import InputError
from gapray.serve.jobs import GenerationParams
from gapray.serve.making import check_params
from gapray.serve.settings import Limits
from gapray.video.decode import MAX_DECODED_PIXELS, map_frames, read_frames
from gapray.video.encode import encode_mp4, export
from gapray.video.presets import Output, Preset
from tests.video.test_encode import PROVENANCE, turn

READ = """
import av
from gapray.video.decode import read_frames
def read(path):
    return len(read_frames(Path(path), max_frames=96, side=1024))
"""


def grey_mp4(path, width, height, frames, pixel_format="yuv420p"):
    """Encode equal frames, each referring to the 16 before it, which is the most that an H.264 decoder ever has to hold."""
    options = {"preset": "ultrafast", "crf": "51", "x264-params": "ref=16:keyint=1000"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        frame = av.VideoFrame(width, height, pixel_format)
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        for index in range(frames):
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def animation(path, side, frames, mode):
    pictures = [Image.new(mode, (side, side), index) for index in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
    return path


def claiming(path, width, height):
    """Return the mp4 with a container that declares small frames (ISO/IEC 14496-12, 12.1.3.2)."""
    data = path.read_bytes()
    at = data.index(b"avc1", data.index(b"stsd")) + 4 + 24
    path.write_bytes(data[:at] + width.to_bytes(2, "big") + height.to_bytes(2, "big") + data[at + 4 :])
    return path


def test_frames_that_are_too_large_are_not_decoded(tmp_path, cost):
    attacks = [
        grey_mp4(tmp_path / "a.mp4", 4096, 4096, 20),
        grey_mp4(tmp_path / "b.mp4", 3072, 3072, 20, "yuv444p10le"),
        animation(tmp_path / "c.gif", 12_000, 2, "P"),
        animation(tmp_path / "d.webp", 8_000, 2, "RGB"),
    ]
    for path in attacks:
        assert path.stat().st_size < 600_000
        code, message, grown = cost(READ, "read(sys.argv[1])", path)
        assert code in ("video.too_many_pixels", "video.unreadable"), message
        assert str(MAX_PIXELS) in message or str(MAX_FRAME_BYTES) in message, message
        assert grown < 128, (path.name, grown)  # FFmpeg decodes one frame to identify the video


def test_frames_that_are_larger_than_the_container_says_are_not_decoded(tmp_path, cost):
    path = claiming(grey_mp4(tmp_path / "a.mp4", 4096, 4096, 20), 64, 64)
    code, message, grown = cost(READ, "read(sys.argv[1])", path)
    assert code in ("video.unreadable", "video.too_many_pixels"), message
    assert grown < 64


def test_the_largest_accepted_frames_need_no_more_memory_than_the_decoder(tmp_path, cost):
    """16 reference frames of 14 MB, and what the decoder's threads hold."""
    path = grey_mp4(tmp_path / "a.mp4", 4096, 2304, 40)
    code, message, grown = cost(READ, "read(sys.argv[1])", path)
    assert (code, message) == (None, 40)
    assert grown < 700


def test_all_pixels_are_counted_before_a_frame_is_decoded(tmp_path):
    path = grey_mp4(tmp_path / "a.mp4", 2048, 2048, 1)
    from gapray.video import decode

    assert decode._checked(MAX_DECODED_PIXELS // 2**22, path, (2048, 2048))
    with pytest.raises(InputError, match=str(MAX_DECODED_PIXELS)) as error:
        decode._checked(MAX_DECODED_PIXELS // 2**22 + 1, path, (2048, 2048))
    assert error.value.code == "video.too_many_pixels"


def test_one_frame_at_a_time_is_held_while_reading(tmp_path):
    """Each frame is processed before the next one is decoded."""
    path = tmp_path / "turn.mp4"
    path.write_bytes(encode_mp4(turn(24, side=96), fps=12))
    whole = read_frames(path)
    assert map_frames(path, lambda frame: frame.sum()) == [frame.sum() for frame in whole]
    made = []
    with pytest.raises(ZeroDivisionError):
        map_frames(path, lambda frame: made.append(1 / (3 - len(made))))
    assert len(made) == 3


OTHERS = {
    "ffconcat": "ffconcat version 1.0\nfile inner.mp4\n",
    "a playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ninner.mp4\n#EXT-X-ENDLIST\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-main:2011" '
    'type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>inner.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "IMF": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"></CompositionPlaylist>',
}


@pytest.mark.parametrize("name", ["video", "video.mp4", "video.txt"])
@pytest.mark.parametrize("attack", OTHERS)
def test_a_video_opens_no_other_file(tmp_path, monkeypatch, attack, name):
    (tmp_path / "inner.mp4").write_bytes(encode_mp4(turn(4), fps=8))
    (tmp_path / name).write_text(OTHERS[attack])
    monkeypatch.chdir(tmp_path)  # FFmpeg considers relative names safe
    for read in (read_frames, count_frames, lambda path: list(frames_of(path))):
        with pytest.raises(InputError) as error:
            read(type(tmp_path)(name))
        assert error.value.code == "video.unreadable"


def test_a_file_named_like_a_protocol_is_opened_as_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = type(tmp_path)("concat:a.mp4")
    path.write_bytes(encode_mp4(turn(4), fps=8))
    assert len(read_frames(path)) == 4


@pytest.mark.parametrize("ending", ["mov", "m4v", "mkv", "webm", "avi", "gif"])
def test_every_supported_kind_of_video_is_read(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    codec, pixel_format = {"webm": ("libvpx-vp9", "yuv420p"), "gif": ("gif", "rgb8")}.get(ending, ("mpeg4", "yuv420p"))
    with av.open(str(path), "w", format={"m4v": "mp4"}.get(ending)) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = pixel_format
        for grey in range(3):
            picture = np.full((64, 64, 3), 60 * grey, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    shutil.copy(path, tmp_path / "video")  # without a suffix, as the server stores it
    assert len(read_frames(tmp_path / "video")) == 3


ENCODE = """
import av
import numpy as np
from PIL import Image
from gapray.video.encode import export
from gapray.video.presets import Output, Preset
from gapray.video.provenance import Provenance
def encode(output, side, frames):
    turn = np.zeros((frames, side, side, 3), np.uint8)
    turn[:, ::2] = 200
    preset = Preset(name="online", description="", files=(output,))
    return len(export(turn, preset, Provenance("mug", "compositeCapture", {}))[output.name])
"""


def test_a_long_video_is_encoded_frame_by_frame(cost):
    """60 s at 60 frames per second: 2.8 GB of frames, 24 of them different."""
    output = 'Output(kind="mp4", name="a.mp4", fps=60, min_s=60)'
    code, size, grown = cost(ENCODE, f"encode({output}, 256, 24)")
    assert code is None and size > 10_000
    assert grown < 200


@pytest.mark.parametrize("kind", ["frames", "viewer"])
def test_frames_are_padded_to_a_file_s_size_one_by_one(cost, kind):
    """48 frames of 1500 x 1500 pixels take 324 MB."""
    name = "{index}.jpg" if kind == "frames" else f"a.{kind}"
    output = f'Output(kind="{kind}", name="{name}", size=(1500, 1500))'
    call = f"encode({output}, 64, 48)" if kind != "frames" else f"str(export_all({output}))"
    imports = (
        ENCODE
        + """
def export_all(output):
    preset = Preset(name="online", description="", files=(output,))
    turn = np.full((48, 64, 64, 3), 99, np.uint8)
    return len(export(turn, preset, Provenance("mug", "compositeCapture", {})))
"""
    )
    code, _, grown = cost(imports, call)
    assert code is None
    assert grown < 150


def test_repeated_and_held_frames_are_those_of_the_turn(tmp_path):
    output = Output(kind="mp4", name="a.mp4", fps=12, hold=2, min_s=3)
    frames = turn(5, side=96)
    path = tmp_path / "a.mp4"
    path.write_bytes(export(frames, Preset(name="a", description="", files=(output,)), PROVENANCE)["a.mp4"])
    shown = read_frames(path)
    assert len(shown) == 40  # four turns of ten frames are the fewest that last 3 s
    near = [int(np.abs(frames.astype(int) - frame).mean((1, 2, 3)).argmin()) for frame in shown]
    assert near == [index // 2 % 5 for index in range(40)]


def test_the_size_of_a_video_is_checked_before_it_is_rendered():
    limits = Limits()
    check_params(GenerationParams(seconds=60, fps=60), limits)
    check_params(GenerationParams(seconds=60, fps=12, width=1024, height=1024), limits)
    for asked in ({"seconds": 60, "fps": 60, "width": 1024, "height": 1024}, {"seconds": 60, "fps": 30, "width": 1024}):
        with pytest.raises(InputError, match=str(limits.video_pixels)) as error:
            check_params(GenerationParams(**asked), limits)
        assert error.value.code == "request.invalid"
