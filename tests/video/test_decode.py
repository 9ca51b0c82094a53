"""Videos from phones, uploads and our own exports: turned upright, within limits, one turn."""

import struct
import subprocess
import sys

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gapray.errors import InputError
from gapray.resample import resized
from gapray.video.decode import MAX_FRAMES, evenly_spaced, one_turn, read_frames
from gapray.video.encode import encode_mp4, export
from gapray.video.presets import preset_named, presets
from tests.video.test_encode import PROVENANCE, turn

_MATRIX_AT = 40
"""Offset of the 3 x 3 matrix in a version 0 `tkhd` box after its type (ISO/IEC 14496-12, 8.3.2)."""
TURNED = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""Clockwise rotation for display [degrees] -> a, b, c, d."""


def turned(mp4: bytes, degrees: int) -> bytes:
    at = mp4.index(b"tkhd") + 4
    a, b, c, d = (value * 65536 for value in TURNED[degrees])
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    return mp4[: at + _MATRIX_AT] + matrix + mp4[at + _MATRIX_AT + 36 :]


@pytest.mark.parametrize("degrees", TURNED)
def test_a_rotated_video_is_turned_upright(tmp_path, degrees):
    upright = np.full((64, 96, 3), 30, np.uint8)
    upright[:24, :32] = (220, 40, 40)  # a mark in the upper left
    stored = np.rot90(upright, degrees // 90)  # as a camera held sideways stores it
    path = tmp_path / "phone.mp4"
    path.write_bytes(turned(encode_mp4(np.repeat(stored[None], 3, 0), fps=8), degrees))
    frames = read_frames(path)
    assert len(frames) == 3
    assert frames[1].shape == upright.shape
    assert np.abs(frames[1].astype(int) - upright).mean() < 6


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_read_back_frame_by_frame(name):
    """Held and repeated frames, archives, padding: one turn comes back, each frame in its place."""
    preset = preset_named(name)
    frames = turn(24, side=96)
    read = one_turn(export(frames, preset, PROVENANCE), preset, 24)
    assert len(read) == 24
    read = np.stack([resized(frame, (96, 96)) for frame in read])
    near = [int(np.abs(frames.astype(int) - frame).mean((1, 2, 3)).argmin()) for frame in read.astype(int)]
    assert near == list(range(24)), "each frame is nearest to itself"


@pytest.mark.parametrize("name", presets())
def test_frames_that_are_equal_are_not_lost(name):
    """A vase looks the same from many sides; GIF and WebP merge equal neighbours into one long frame."""
    preset = preset_named(name)
    frames = np.repeat(turn(8, side=96), 3, axis=0)
    read = one_turn(export(frames, preset, PROVENANCE), preset, 24)
    where = [int(frame[frame.shape[0] // 2, :, 0].argmax() * 8 // frame.shape[1]) for frame in read]
    assert where == [index // 3 for index in range(24)]


def test_a_truncated_turn_is_unreadable():
    for name, file in (("webp", "turntable.webp"), ("gif", "turntable.gif"), ("web", "turntable.mp4"), ("amazon-360", "amazon-360.zip")):  # fmt: skip
        preset = preset_named(name)
        files = export(turn(24), preset, PROVENANCE)
        short = export(turn(23), preset.model_copy(update={"accepts_frames": None}), PROVENANCE)
        for data in (short[file], files[file][: len(files[file]) // 2], b""):
            with pytest.raises(InputError) as error:
                one_turn({file: data}, preset, 24)
            assert error.value.code == "video.unreadable", (name, len(data))
    with pytest.raises(InputError) as error:
        one_turn({}, preset_named("amazon-360"), 24)
    assert error.value.code == "video.unreadable"


@settings(deadline=None)
@given(st.integers(1, 6000), st.integers(1, 300))
def test_chosen_frames_are_evenly_spaced(count, max_count):
    chosen = evenly_spaced(count, max_count)
    assert chosen[0] == 0 and len(set(chosen)) == len(chosen) == min(count, max_count) and chosen[-1] < count
    even = np.arange(len(chosen)) * count / len(chosen)
    assert np.abs(even - chosen).max() <= 0.5


@pytest.mark.parametrize("kind", ["mp4", "webp", "{:03d}.png", "turn_{}.png"])
def test_a_long_video_is_subsampled_and_resized_while_it_is_read(tmp_path, kind):
    frames = turn(24, side=96)
    path = tmp_path / "a"
    if "{" in kind:  # a folder
        path.mkdir()
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(path / kind.format(index))
    else:
        name = {"mp4": "web", "webp": "webp"}[kind]
        path.write_bytes(export(frames, preset_named(name), PROVENANCE)[f"turntable.{kind}"])
    read = read_frames(path, max_frames=7, side=64)
    assert [frame.shape for frame in read] == [(64, 64, 3)] * 7
    small = np.stack([resized(frame, (64, 64)) for frame in frames]).astype(int)
    near = [int(np.abs(small - frame).mean((1, 2, 3)).argmin()) for frame in read]
    assert near == evenly_spaced(24, 7)
    assert len(read_frames(path)) == 24


def test_too_many_frames_are_refused(tmp_path):
    for index in range(MAX_FRAMES + 1):
        (tmp_path / f"{index}.jpg").touch()
    with pytest.raises(InputError) as error:
        read_frames(tmp_path, max_frames=4)
    assert error.value.code == "video.too_long"


READ = """
import sys
from pathlib import Path
from gapray.fidelity.foreign import MAX_ALIGNED_FRAMES
from gapray.video.decode import read_frames
def peak_kb():  # of this process alone: getrusage includes the parent's from before the fork
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1])
before = peak_kb()
frames = read_frames(Path(sys.argv[1]), max_frames=MAX_ALIGNED_FRAMES, side=512)
print(len(frames), frames[0].shape, (peak_kb() - before) // 1024)
"""


def test_memory_does_not_grow_with_an_uploaded_video(tmp_path):
    """80 frames of 4K take 2 GB when all are kept, but 35 MB at the needed size, plus the decoder's own memory."""
    path = tmp_path / "4k.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "40"})
        stream.width, stream.height, stream.pix_fmt = 3840, 2160, "yuv420p"
        for index in range(80):
            grey = np.full((2160 * 3 // 2, 3840), 3 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="yuv420p")))
        container.mux(stream.encode())
    output = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, check=True).stdout
    assert output.startswith("80 (288, 512, 3) ")
    assert int(output.split()[-1]) < 700


def test_a_damaged_webp_is_unreadable(tmp_path):
    whole = export(turn(4), preset_named("webp"), PROVENANCE)["turntable.webp"]
    for number, data in enumerate((whole[:40], whole[: len(whole) // 2], whole[:12] + b"\0" * 200)):
        path = tmp_path / f"{number}.webp"
        path.write_bytes(data)
        with pytest.raises(InputError) as error:
            read_frames(path)
        assert error.value.code == "video.unreadable"
