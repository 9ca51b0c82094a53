"""Videos of phones: the container says how they are to be turned."""

import struct

import numpy as np
import pytest

from gapray.errors import InputError
from gapray.video.decode import one_turn, read_frames
from gapray.video.encode import encode_mp4, export
from gapray.video.presets import preset_named
from tests.video.test_encode import PROVENANCE, turn

_MATRIX_AT = 40
"""Offset of the 3 x 3 matrix in a version 0 `tkhd` box behind its type (ISO/IEC 14496-12, 8.3.2)."""
TURNED = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""Clockwise degrees to show it at -> a, b, c, d."""


def turned(mp4: bytes, degrees: int) -> bytes:
    at = mp4.index(b"tkhd") + 4
    a, b, c, d = (value * 65536 for value in TURNED[degrees])
    matrix = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    return mp4[: at + _MATRIX_AT] + matrix + mp4[at + _MATRIX_AT + 36 :]


@pytest.mark.parametrize("degrees", TURNED)
def test_a_rotated_video_comes_upright(tmp_path, degrees):
    upright = np.full((64, 96, 3), 30, np.uint8)
    upright[:24, :32] = (220, 40, 40)  # a mark in the upper left
    stored = np.rot90(upright, degrees // 90)  # as a camera held sideways stores it
    path = tmp_path / "phone.mp4"
    path.write_bytes(turned(encode_mp4(np.repeat(stored[None], 3, 0), fps=8), degrees))
    frames = read_frames(path)
    assert len(frames) == 3
    assert frames[1].shape == upright.shape
    assert np.abs(frames[1].astype(int) - upright).mean() < 6


@pytest.mark.parametrize("name", ["web", "gif", "webp"])
def test_every_preset_that_moves_is_read_back_frame_by_frame(name):
    preset = preset_named(name)
    frames = turn(8)
    read = one_turn(export(frames, preset, PROVENANCE), preset, 8)
    assert read.shape == frames.shape
    near = [int(np.abs(frames.astype(int) - one).mean((1, 2, 3)).argmin()) for one in read.astype(int)]
    assert near == list(range(8)), "each frame is nearest to itself"


def test_a_damaged_webp_is_unreadable(tmp_path):
    whole = export(turn(4), preset_named("webp"), PROVENANCE)["turntable.webp"]
    for number, data in enumerate((whole[:40], whole[: len(whole) // 2], whole[:12] + b"\0" * 200)):
        path = tmp_path / f"{number}.webp"
        path.write_bytes(data)
        with pytest.raises(InputError) as error:
            read_frames(path)
        assert error.value.code == "video.unreadable"
