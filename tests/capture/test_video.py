"""Videos of known colours, written by the FFmpeg command line with an independent colour library (zimg)."""

import numpy as np
import pytest

from gapray.capture.video import count_frames, frames_of
from gapray.errors import InputError

COLOURS = (
    *((200, 30, 40), (60, 150, 80), (30, 60, 190), (240, 130, 20), (74, 203, 221), (128, 128, 128)),
    *((16, 16, 16), (240, 240, 240), (255, 255, 255), (0, 0, 0), (90, 60, 40), (180, 170, 60)),
)
"""All are inside the smallest tested gamut, that of 525 lines."""
SIDE = 64
SRGB = "zscale=min=gbr:rin=full:pin=709:tin=iec61966-2-1"
FROM_SRGB = {
    "BT.709": "m=709:r=limited:p=709:t=709:tin=709,format=yuv420p",
    "BT.709, full range": "m=709:r=full:p=709:t=709:tin=709,format=yuv420p",
    "BT.709, 10 bit": "m=709:r=limited:p=709:t=709:tin=709,format=yuv420p10le",
    "BT.601 matrix": "m=170m:r=limited:p=709:t=709:tin=709,format=yuv420p",
    "BT.601, 525 lines": "m=170m:r=limited:p=170m:t=iec61966-2-1,format=yuv420p",
    "BT.601, 625 lines": "m=470bg:r=limited:p=5:t=iec61966-2-1,format=yuv420p",
    "BT.2020": "m=2020_ncl:r=limited:p=2020:t=iec61966-2-1,format=yuv420p10le",
    "Display P3": "m=709:r=limited:p=smpte432:t=iec61966-2-1,format=yuv420p10le",
    "PQ": "m=2020_ncl:r=limited:p=2020:t=smpte2084:npl=203,format=yuv420p10le",
    "PQ, full range": "m=2020_ncl:r=full:p=2020:t=smpte2084:npl=203,format=yuv420p10le",
}


def patches():
    """The patches as a picture, uint8 [3 * SIDE, 4 * SIDE, 3]."""
    rows = [COLOURS[at : at + 4] for at in range(0, 12, 4)]
    return np.concatenate(
        [np.concatenate([np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in row], axis=1) for row in rows]
    )


def read(picture):
    """Median colour of each patch's centre, [12, 3]."""
    height, width = picture.shape[0] // 3, picture.shape[1] // 4
    return np.array(
        [
            np.median(
                picture[
                    row * height + height // 3 : row * height + height * 2 // 3,
                    column * width + width // 3 : column * width + width * 2 // 3,
                ],
                axis=(0, 1),
            )
            for row in range(3)
            for column in range(4)
        ]
    )


def write(ffmpeg, path, filters, picture, *options, count=2):
    kind = "rgb24" if picture.dtype == np.uint8 else "rgb48le"
    source = ("-f", "rawvideo", "-pix_fmt", kind, "-s", f"{picture.shape[1]}x{picture.shape[0]}", "-r", "24", "-i", "-")
    coded = ("-c:v", "libx264", "-qp", "4", "-preset", "veryfast", *options)
    ffmpeg("ffmpeg", "-y", "-v", "error", *source, "-vf", filters, *coded, path, given=picture.tobytes() * count)
    return path


@pytest.mark.parametrize("name", FROM_SRGB)
@pytest.mark.parametrize("side", [None, 128])
def test_colours_are_read_by_the_files_own_tags(ffmpeg, tmp_path, name, side):
    steps = FROM_SRGB[name]
    source = SRGB.removesuffix(":tin=iec61966-2-1") if "tin=" in steps else SRGB
    path = write(ffmpeg, tmp_path / "a.mp4", f"{source}:{steps}", patches())
    frames = [frame for _, frame in frames_of(path, side=side)]
    assert len(frames) == count_frames(path) == count_frames(path, decode=True) == 2
    assert np.abs(read(frames[1]) - COLOURS).max() <= 2


def test_without_tags_ffmpegs_own_matrix_is_taken(ffmpeg, tmp_path):
    path = write(
        ffmpeg, tmp_path / "a.mp4", "scale=out_color_matrix=bt601:flags=accurate_rnd,format=yuv420p", patches()
    )
    probed = ffmpeg("ffprobe", "-v", "error", "-show_entries", "stream=color_space", "-of", "csv=p=0", path)
    assert probed.decode().strip() == "unknown"
    [_, (_, frame)] = frames_of(path)
    assert np.abs(read(frame) - COLOURS).max() <= 2


def hlg(picture, white_nits, *, by_channel=False):
    """HLG signal of sRGB colours (ITU-R BT.2100) for a display of 1,000 cd/m2, uint16."""
    x = picture.astype(float) / 255
    light = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) * white_nits / 1000
    to_2020 = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]  # ITU-R BT.2087, 2.2
    light = light @ np.array(to_2020).T
    luminance = light if by_channel else (light @ [0.2627, 0.6780, 0.0593])[..., None]
    scene = light * np.maximum(luminance, 1e-9) ** (1 / 1.2 - 1)
    upper = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.rint(65535 * np.where(scene <= 1 / 12, np.sqrt(3 * scene), upper)).astype(np.uint16)


@pytest.mark.parametrize("transfer", ["arib-std-b67", "smpte2084"])
def test_a_conversion_from_standard_range_is_undone(ffmpeg, tmp_path, transfer):
    """White at 100 cd/m2, as zscale leaves it by default."""
    path = write(
        ffmpeg, tmp_path / "a.mov", f"{SRGB}:m=2020_ncl:r=limited:p=2020:t={transfer},format=yuv420p10le", patches()
    )
    frames = [frame for _, frame in frames_of(path)]
    assert np.abs(read(frames[0]) - COLOURS).max() <= 3
    assert np.array_equal(next(frames_of(path, only={1}))[1], frames[1])


HLG_AS_IT_IS = (
    "zscale=min=gbr:rin=full:pin=2020:tin=arib-std-b67:m=2020_ncl:r=limited:p=2020:t=arib-std-b67,format=yuv420p10le"
)


def test_hlg_from_phones(ffmpeg, tmp_path):
    """White at 203 cd/m2, as BT.2408 requires."""
    path = write(ffmpeg, tmp_path / "a.mov", HLG_AS_IT_IS, hlg(patches(), 203))
    frames = [frame for _, frame in frames_of(path)]
    assert np.abs(read(frames[0]) - COLOURS).max() <= 2
    assert np.array_equal(next(frames_of(path, only={1}))[1], frames[1])


def test_dark_hdr_of_a_camera_stays_dark(ffmpeg, tmp_path):
    dark = patches() // 2
    by_camera = ("-movflags", "use_metadata_tags", "-metadata", "com.apple.quicktime.make=Apple")
    for name, options in {"camera": by_camera, "no encoder named": ("-bitexact",)}.items():
        path = write(ffmpeg, tmp_path / "a.mov", HLG_AS_IT_IS, hlg(dark, 203), *options)
        [(_, frame), _] = frames_of(path)
        assert np.abs(read(frame) - read(dark)).max() <= 3, name


def test_white_is_determined_for_the_whole_video(ffmpeg, tmp_path):
    """The first frame is dark, as in a fade-in."""
    film = np.concatenate([hlg(patches() // 4, 203), hlg(patches(), 203)])
    source = ("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", f"{4 * SIDE}x{3 * SIDE}", "-r", "24", "-i", "-")
    coded = ("-c:v", "libx264", "-qp", "4", "-g", "1", tmp_path / "a.mov")
    ffmpeg("ffmpeg", "-y", "-v", "error", *source, "-vf", HLG_AS_IT_IS, *coded, given=film.tobytes())
    dark, bright = (frame for _, frame in frames_of(tmp_path / "a.mov"))
    assert np.abs(read(dark) - read(patches() // 4)).max() <= 3
    assert np.abs(read(bright) - COLOURS).max() <= 2
    [(_, alone)] = frames_of(tmp_path / "a.mov", only={1})
    assert np.array_equal(alone, bright)


@pytest.mark.parametrize("tags", ["color_primaries=bt2020:color_trc=unknown", "color_primaries=bt709:color_trc=linear"])
def test_log_and_linear_footage_is_refused(ffmpeg, tmp_path, tags):
    path = write(ffmpeg, tmp_path / "a.mp4", f"format=yuv420p10le,setparams=colorspace=bt2020nc:{tags}", patches())
    with pytest.raises(InputError) as error:
        list(frames_of(path))
    assert error.value.code == "video.unknown_colours"


def test_highlights_are_clipped_to_white(ffmpeg, tmp_path):
    picture = patches().astype(np.float32)
    signal = hlg(picture, 203)
    signal[:SIDE, :SIDE] = np.uint16(0.95 * 65535)  # 730 cd/m2
    [(_, frame), _] = frames_of(write(ffmpeg, tmp_path / "a.mov", HLG_AS_IT_IS, signal))
    assert np.abs(read(frame)[1:] - COLOURS[1:]).max() <= 2 and read(frame)[0].min() == 255


def test_a_shrunk_frame_is_averaged_and_luma_is_full(ffmpeg, tmp_path):
    noise = np.repeat(np.random.default_rng(0).integers(60, 196, (512, 512, 1), np.uint8), 3, -1)
    path = write(ffmpeg, tmp_path / "a.mp4", "scale=out_color_matrix=bt601,format=yuv444p", noise)
    for grey in (False, True):
        full = next(frames_of(path, grey=grey))[1]
        small = next(frames_of(path, grey=grey, side=128))[1]
        assert small.std() == pytest.approx(full.std() / 4, rel=0.1)
        assert np.abs(small.astype(int) - full.reshape(128, 4, 128, 4, -1).mean((1, 3)).reshape(small.shape)).max() <= 2
    assert next(frames_of(path, pixels=1000))[1].shape[0] ** 2 <= 1100
    white = write(ffmpeg, tmp_path / "b.mp4", "scale=out_color_matrix=bt601,format=yuv420p", np.full_like(noise, 255))
    assert next(frames_of(white, grey=True))[1].min() == 255


@pytest.mark.parametrize("stored", [(180, 240), (320, 240), (240, 180), (162, 240)], ids=str)
@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "avi"])
def test_pixels_that_are_not_square_become_square(ffmpeg, tmp_path, stored, ending):
    """A disc that is stored squeezed, as by television and camcorders, becomes round."""
    y, x = np.mgrid[:240, :240]
    disc = np.repeat(np.where((x - 120) ** 2 + (y - 100) ** 2 < 60**2, 30, 220).astype(np.uint8)[..., None], 3, -1)
    squeezed = f"scale={stored[0]}:{stored[1]}:flags=area,setsar={stored[1]}/{stored[0]},format=yuv420p"
    path = write(ffmpeg, tmp_path / f"a.{ending}", squeezed, disc)
    if ending == "mov":
        ffmpeg("ffmpeg", "-v", "error", "-i", path, "-c", "copy", "-metadata:s:v", "rotate=90", tmp_path / "turned.mov")
        path, disc = tmp_path / "turned.mov", np.rot90(disc)
    for grey, side in ((False, None), (True, None), (False, 120)):
        frame = next(frames_of(path, grey=grey, side=side))[1]
        if side is None:
            assert max(frame.shape[:2]) == max(240, *stored) and frame.shape[0] == pytest.approx(frame.shape[1], abs=1)
        else:
            assert frame.shape[:2] == (side, side)
        rows, columns = np.nonzero(frame.reshape(*frame.shape[:2], -1)[..., 0] < 125)
        assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=2)
        assert np.ptp(rows) == pytest.approx(frame.shape[0] / 2, abs=4)
        at = np.argwhere(disc[..., 0] < 125).mean(0) / 240 * frame.shape[0]
        assert (rows.mean(), columns.mean()) == pytest.approx(at, abs=1.5)


def test_stretched_pixels_keep_to_the_limits(ffmpeg, tmp_path):
    wide = np.full((64, 2048, 3), 128, np.uint8)
    path = write(ffmpeg, tmp_path / "a.mp4", "setsar=8/1,format=yuv420p", wide)
    assert next(frames_of(path))[1].shape == (16, 4096, 3)
    assert next(frames_of(path, pixels=4096))[1].size <= 3 * 4352


def test_a_file_that_is_no_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    for call in (count_frames, lambda path: list(frames_of(path))):
        with pytest.raises(InputError) as error:
            call(tmp_path / "a.mp4")
        assert error.value.code == "video.unreadable"
