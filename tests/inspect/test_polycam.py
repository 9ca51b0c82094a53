import csv
import io
import json
import random
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gapray.capture.discover import discover
from gapray.capture.settings import DecodeSettings
from gapray.errors import REMEDIES, ConfigError, GaprayError, InputError
from gapray.inspect.orbit import find_orbit, meeting_point, project, upright_rotation
from gapray.inspect.pick import candidates, pick_views, sides_between, write_views
from gapray.inspect.polycam import MAX_KEYFRAMES, parse_camera, read_export
from tests.inspect.polycam_export import (
    START_US,
    Camera,
    Make,
    camera_json,
    exported,
    png,
    pose,
    shaken,
    turn,
    zipped,
)


def wrapped(degrees):
    return (np.asarray(degrees) + 180) % 360 - 180


def code_of(call, *arguments, **options) -> tuple[str, str]:
    with pytest.raises(GaprayError) as caught:
        call(*arguments, **options)
    return caught.value.code, caught.value.message


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def make(samples):
    return Make(samples)


@pytest.fixture
def small(make, tmp_path):
    """24 keyframes of one turn, on disk."""
    return make.write(tmp_path / "scan", shaken(turn(24), 1))


# Geometry


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(16, 200),
    clockwise=st.booleans(),
    elevation=st.floats(-10, 60),
    distance=st.floats(0.2, 3.0),
    zero=st.floats(0, 360),
    centre=st.tuples(*[st.floats(-5, 5)] * 3),
    outliers=st.integers(0, 3),
)
def test_azimuths_of_a_shaken_turn_are_the_true_ones(
    seed, count, clockwise, elevation, distance, zero, centre, outliers
):
    cameras = shaken(turn(count, clockwise=clockwise, elevation=elevation, distance=distance), seed)
    rng = random.Random(seed)
    wrong = sorted(rng.sample(range(1, count), outliers))
    for index in wrong:
        cameras[index] = rng.choice(
            [
                Camera(cameras[index].azimuth, elevation, distance, aim=(180.0, 0.0)),
                Camera(cameras[index].azimuth, elevation, 4 * distance),
                Camera(cameras[index].azimuth, elevation + 35 if elevation < 25 else elevation - 35, distance),
            ]
        )
    orbit = find_orbit(exported(cameras, centre=centre, zero=zero))
    good = np.flatnonzero(orbit.good)
    assert not set(wrong) & set(good.tolist())
    # Noise of 3 degrees in aim moves the centre by about distance * 0.05 / sqrt(n); the elevation's is 1 degree.
    assert np.linalg.norm(orbit.centre - centre) < distance * (0.02 + 0.25 / np.sqrt(len(good)))
    truth = np.array([camera.azimuth for camera in cameras])
    off = wrapped(orbit.azimuth_deg - truth)[good]
    off = wrapped(off - off[0])
    limit = 2 * np.degrees(np.linalg.norm(orbit.centre - centre) / (0.8 * distance * np.cos(np.radians(elevation))))
    assert np.abs(off).max() <= limit + 1e-6
    assert ((orbit.azimuth_deg >= 0) & (orbit.azimuth_deg < 360)).all()
    assert orbit.azimuth_deg[good[0]] == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(20, 720), start=st.floats(0, 360), views=st.integers(4, 9))
def test_the_nearest_candidate_lies_within_half_a_spacing(seed, count, start, views):
    orbit = find_orbit(exported(shaken(turn(count, start=start), seed)))
    found = candidates(orbit, views)
    used = [index for near in found for index in near]
    assert len(set(used)) == len(used) and orbit.good[used].all()
    ordered = np.sort(orbit.azimuth_deg[orbit.good])
    spacing = np.diff([*ordered, ordered[0] + 360]).max()
    for step, near in enumerate(found):
        assert abs(wrapped(orbit.azimuth_deg[near[0]] - 360 * step / views)) <= spacing / 2 + 1e-9


@given(st.lists(st.tuples(*[st.floats(-1, 1)] * 3), min_size=3, max_size=9), st.tuples(*[st.floats(-9, 9)] * 3))
def test_lines_through_a_point_meet_there(directions, point):
    axes = np.array([*directions, (1, 0, 0), (0, 1, 0), (0, 0, 1)], float)
    axes = axes[np.linalg.norm(axes, axis=1) > 0.1]
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    positions = np.array(point) - axes * np.linspace(0.5, 3, len(axes))[:, None]
    for robust in (True, False):
        assert np.allclose(meeting_point(positions, axes, robust=robust), point, atol=1e-6)


def test_azimuth_grows_counter_clockwise_seen_from_above_and_right_is_90_degrees():
    # Seen from above, with +x to the right, +z points down the page: from (0, 1) over (1, 0) is counter-clockwise.
    export = exported(turn(8), centre=(0, 0, 0), zero=0)
    assert export.keyframes[0].pose[:, 3] @ [0, 0, 1] > 0.7 and export.keyframes[2].pose[:, 3] @ [1, 0, 0] > 0.7
    assert np.allclose(find_orbit(export).azimuth_deg, np.arange(0, 360, 45))
    # Another front shifts all azimuths.
    shifted = find_orbit(export, front=f"{START_US + 2}.jpg")
    assert np.allclose(shifted.azimuth_deg, (np.arange(0, 360, 45) - 90) % 360)


def test_the_projection_of_the_centre_follows_the_aim():
    keyframe = exported([Camera(10, aim=(5.0, 0.0))] * 4, centre=(0, 0, 0)).keyframes[0]
    column, row = project(keyframe, np.zeros(3))
    assert column == pytest.approx(128 - 192 * np.tan(np.radians(5)))  # aimed to its right, so seen to the left
    assert row == pytest.approx(96)
    assert project(keyframe, keyframe.pose[:, 3] * 2) is None


@pytest.mark.parametrize(
    ("roll", "turns", "left"), [(0, 0, 0), (90, 1, 0), (-90, 3, 0), (180, 2, 0), (97, 1, 7), (5, 0, 5)]
)
def test_upright(roll, turns, left):
    keyframe = exported([Camera(120, roll=roll)]).keyframes[0]
    found, rest = upright_rotation(keyframe)
    assert found == turns and rest == pytest.approx(left, abs=1e-9)


def test_the_more_complete_of_two_loops_is_used():
    low, high = turn(40, elevation=10), turn(60, span=200, elevation=45)
    orbit = find_orbit(exported([*high, *low]))
    assert orbit.good.tolist() == [False] * 60 + [True] * 40
    assert set(orbit.rejected.values()) == {"looks from 45° above the horizon, the orbit lies at 10°"}


@pytest.mark.parametrize(
    ("cameras", "words"),
    [
        (turn(3), "at least 4"),
        (turn(30, span=5), "same direction"),
        (turn(30, aim=(180.0, 0.0)), "look at one point"),
        (turn(40, elevation=78), "go round"),
        (shaken(turn(40, distance=0.01, aim=(180.0, 0.0)), 0, share=3.0, aim=60.0), ""),
    ],
)
def test_cameras_that_do_not_form_an_orbit(cameras, words):
    code, message = code_of(find_orbit, exported(cameras))
    assert code == "polycam.no_orbit" and words in message


def test_an_unknown_front():
    cameras = turn(20)
    cameras[3] = Camera(54, elevation=50)
    assert code_of(find_orbit, exported(cameras), "nobody")[0] == "polycam.unknown_front"
    code, message = code_of(find_orbit, exported(cameras), str(START_US + 3))
    assert code == "polycam.unknown_front" and "50° above the horizon" in message


# Gaps


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [
        (120, 175, "the right back side"),
        (100, 130, "the right back side"),
        (20, 80, "the right front side"),
        (60, 200, "the right, right back and back sides"),
        (300, 20, "the left front and front sides"),
        (80, 100, "the right side"),
        (250, 290, "the left side"),
        (340, 10, "the front side"),
    ],
)
def test_sides(start, end, words):
    assert sides_between(start, end) == words


def test_a_gap_names_the_side():
    cameras = [camera for camera in turn(90) if not 100 < camera.azimuth < 175]
    code, message = code_of(candidates, find_orbit(exported(cameras)), 8)
    assert (code, message) == ("polycam.gap", "no photo between 100° and 176°: the right back side")
    cameras = [camera for camera in turn(90) if not (65 < camera.azimuth < 115 or 200 < camera.azimuth < 320)]
    message = code_of(candidates, find_orbit(exported(cameras)), 8)[1]
    assert (
        message
        == "no photo between 64° and 116°: the right side; between 200° and 320°: the left back, left and left front sides"
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 200), st.floats(0, 360), st.floats(41, 200))
def test_every_gap_about_a_wanted_angle_is_found(count, middle, width):
    cameras = [
        camera for camera in turn(count) if abs(wrapped(camera.azimuth - middle)) > width / 2 or camera.azimuth == 0
    ]
    orbit = find_orbit(exported(cameras))
    azimuths = orbit.azimuth_deg[orbit.good]
    lacking = [step for step in range(8) if np.abs(wrapped(azimuths - 45 * step)).min() > 20]
    if lacking:
        assert code_of(candidates, orbit, 8)[0] == "polycam.gap"
    else:
        assert all(candidates(orbit, 8))


# From files to a product's folder


def check_written(out: Path, count: int = 8):
    """Check that gapray reads what was written."""
    [found] = discover(str(out))
    assert found.product_id == out.name and len(found.photos) == count
    with (out / "capture.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {photo.name for photo in found.photos}
    return found, rows


@pytest.mark.parametrize("packed", [False, True])
def test_eight_views_of_more_than_700_keyframes(make, samples, tmp_path, packed):
    # Too long for Polycam to optimise: no corrected files, and no depth here.
    cameras = shaken(turn(720, start=10.0, clockwise=packed), 3)
    folder = Make(samples, corrected=False, depth=False, pictures=make.pictures).write(tmp_path / "long", cameras)
    source = zipped(folder) if packed else folder
    before = tree(folder)
    export = read_export(str(source))
    assert len(export.keyframes) == 720 and not any(keyframe.corrected for keyframe in export.keyframes)
    picked = pick_views(export)
    for view in picked:
        index = (view.keyframe.timestamp_us - START_US) // 250_000
        truth = wrapped(cameras[index].azimuth - cameras[0].azimuth - view.nominal_deg)
        # Half the spacing of 0.5 degrees (and its noise), and 1 degree for the shift of the centre by noise in the poses.
        assert abs(wrapped(view.azimuth_deg - view.nominal_deg)) <= 0.3 and abs(truth) < 1.3
    out = write_views(export, picked, tmp_path / "captures" / "sku-1")
    found, _ = check_written(out)
    assert [photo.azimuth_deg for photo in found.photos] == sorted(round(view.azimuth_deg, 3) for view in picked)
    assert tree(folder) == before
    # The border of a photo that was not undistorted is kept.
    assert Image.open(out / "sku-1_000.jpg").size == (256, 192)
    assert not (out / "depth").exists()


def test_corrected_photos_are_preferred_and_lose_their_border_and_depth_follows(make, samples, tmp_path):
    cameras = turn(96)
    # Every other keyframe, including those at all nominal angles, lacks its corrected pair.
    few = Make(samples, uncorrected=frozenset(range(0, 96, 4)), pictures=make.pictures)
    export = read_export(str(zipped(few.write(tmp_path / "scan", cameras))))
    assert sum(not keyframe.corrected for keyframe in export.keyframes) == 24
    picked = pick_views(export)
    # 3.75 degrees to the next corrected photo cost more than 3 for a distorted one.
    assert not any(view.keyframe.corrected for view in picked)
    dense = Make(samples, uncorrected=frozenset(range(0, 240, 3)), pictures=make.pictures)
    export = read_export(str(dense.write(tmp_path / "dense", turn(240))))
    picked = pick_views(export)
    assert all(view.keyframe.corrected for view in picked)
    assert max(abs(wrapped(view.azimuth_deg - view.nominal_deg)) for view in picked) <= 1.5 + 1e-6
    out = write_views(export, picked, tmp_path / "out" / "mug")
    _, rows = check_written(out)
    photo = np.asarray(Image.open(out / "mug_045.jpg"))
    assert photo.shape == (192 - 30, 256 - 30, 3) and photo[0].min() > 100  # black before
    depth = cv2.imread(str(out / "depth" / "mug_045.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16 and depth.shape == (48 - 8, 64 - 8)  # 15 px of 256 are 4 of 64
    assert (depth[:36, 28:] == np.arange(1032, 1060)).all() and not depth[:, :28].any() and not depth[36:].any()
    assert rows[0]["keyframe"] == picked[0].keyframe.name and float(rows[0]["distance_m"]) == pytest.approx(0.8)


def test_blurred_photos_are_passed_over_and_only_those(make, samples, tmp_path):
    wanted = frozenset(range(0, 240, 30))
    make = Make(samples, blurred=wanted, depth=False, pictures=make.pictures)
    export = read_export(str(make.write(tmp_path / "scan", turn(240))))
    indices = [(view.keyframe.timestamp_us - START_US) // 250_000 for view in pick_views(export)]
    assert not set(indices) & wanted
    assert all(abs(wrapped(1.5 * index - 45 * step)) == 1.5 for step, index in enumerate(indices))


def test_a_phone_held_upright_gives_upright_photos(make, tmp_path):
    export = read_export(str(make.write(tmp_path / "scan", turn(48, roll=90))))
    out = write_views(export, pick_views(export), tmp_path / "mug")
    photo = cv2.imread(str(out / "mug_000.jpg"))
    assert photo.shape == (256 - 30, 192 - 30, 3)
    upright_one = Image.open(make.samples / "captures" / "mug" / "mug_000.jpg").resize((192, 192)).convert("RGB")
    middle = photo[32 - 15 : 224 - 15, :, ::-1].astype(float)  # the photo lies 32 px below the top
    assert np.abs(middle - np.asarray(upright_one)[:, 15:-15]).mean() < 6
    depth = cv2.imread(str(out / "depth" / "mug_000.png"), cv2.IMREAD_UNCHANGED)
    assert depth.shape == (64 - 8, 48 - 8)


def test_a_damaged_photo_is_skipped_and_reported(small, tmp_path):
    broken = small / "keyframes" / "corrected_images" / f"{START_US}.jpg"
    broken.write_bytes(broken.read_bytes()[:900])
    picked = pick_views(read_export(str(small)), tolerance_deg=22)
    assert picked[0].keyframe.name != str(START_US) and "image.truncated" in picked[0].left_out[0]
    assert not picked[1].left_out


def test_other_numbers_of_views(small):
    export = read_export(str(small))
    for views in (4, 6, 12):
        assert [view.nominal_deg for view in pick_views(export, views)] == [360 * step / views for step in range(views)]
    for wrong in ({"views": 3}, {"views": 181}, {"tolerance_deg": 0}, {"tolerance_deg": 46}):
        with pytest.raises(ConfigError):
            pick_views(export, **wrong)


def test_picks_that_gapray_would_refuse_are_a_gap(make, tmp_path):
    # Within 20 degrees of all nominal angles, but 80 degrees without a photo.
    cameras = [camera for camera in turn(180) if not 72 < camera.azimuth < 152]
    export = read_export(str(make.write(tmp_path / "scan", cameras)))
    code, message = code_of(pick_views, export)
    assert (code, message) == ("polycam.gap", "no photo between 72° and 152°: the right and right back sides")


def test_nothing_is_overwritten_and_nothing_half_written_is_left(small, tmp_path):
    export = read_export(str(small))
    picked = pick_views(export)
    out = tmp_path / "captures" / "mug"
    out.mkdir(parents=True)
    write_views(export, picked, out)  # an empty folder may be there
    before = tree(out)
    assert code_of(write_views, export, picked, out)[0] == "capture.out_not_empty"
    assert tree(out) == before
    (tmp_path / "file").write_text("x")
    assert code_of(write_views, export, picked, tmp_path / "file")[0] == "capture.out_not_empty"
    assert code_of(write_views, export, picked, tmp_path / "file" / "mug")[0] == "capture.write_failed"
    assert code_of(write_views, export, picked, tmp_path / "a b")[0] == "capture.invalid_product_id"
    (small / "keyframes" / "depth" / f"{picked[5].keyframe.name}.png").write_bytes(b"no png")
    assert code_of(write_views, export, picked, tmp_path / "captures" / "cup")[0] == "polycam.invalid_depth"
    assert [path.name for path in (tmp_path / "captures").iterdir()] == ["mug"]


# Malformed exports


CAMERA_FAULTS = {
    "missing": lambda fields: fields.pop("t_12"),
    "no focal length": lambda fields: fields.pop("fx"),
    "nan": lambda fields: fields.update(t_03=float("nan")),
    "infinite": lambda fields: fields.update(t_22=float("inf")),
    "enormous": lambda fields: fields.update(t_13=10**400),
    "text": lambda fields: fields.update(t_00="1"),
    "bool": lambda fields: fields.update(t_00=True),
    "null": lambda fields: fields.update(cx=None),
    "no rotation": lambda fields: fields.update(t_00=fields["t_00"] * 1.5 + 0.2),
    "mirrored": lambda fields: fields.update({f"t_{row}0": -fields[f"t_{row}0"] for row in range(3)}),
    "far": lambda fields: fields.update(t_03=1e6),
    "no width": lambda fields: fields.update(width=0),
    "half a pixel": lambda fields: fields.update(height=191.5),
    "negative focal length": lambda fields: fields.update(fy=-1.0),
    "principal point outside": lambda fields: fields.update(cx=1e5),
}


@pytest.mark.parametrize("fault", CAMERA_FAULTS)
def test_faulty_cameras(small, fault):
    file = small / "keyframes" / "corrected_cameras" / f"{START_US}.json"
    fields = json.loads(file.read_text())
    CAMERA_FAULTS[fault](fields)
    file.write_text(json.dumps(fields))
    code, message = code_of(read_export, str(small))
    assert code == "polycam.invalid_camera" and f"corrected_cameras/{START_US}.json" in message


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"7", b"[" * 10**5, b"\xff\xfe\x00", b'{"t_00": ' + b"9" * 6000 + b"}", b" " * 300_000]
)
def test_faulty_json(small, data):
    (small / "keyframes" / "corrected_cameras" / f"{START_US}.json").write_bytes(data)
    assert code_of(read_export, str(small))[0] == "polycam.invalid_camera"
    assert code_of(read_export, str(zipped(small)))[0] == "polycam.invalid_camera"


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(list(camera_json(np.eye(4)))),
        st.none()
        | st.booleans()
        | st.text(max_size=3)
        | st.floats()
        | st.integers()
        | st.lists(st.integers(), max_size=2),
    )
)
def test_any_field_gives_a_camera_or_the_code(changed):
    data = json.dumps(camera_json(pose(Camera(30)), **changed)).encode()
    try:
        camera = parse_camera(data, "x.json")
    except InputError as error:
        assert error.code == "polycam.invalid_camera"
    else:
        assert np.isfinite(camera["pose"]).all() and camera["pose"].shape == (3, 4)


def test_fields_that_are_not_needed_may_be_missing(small):
    for file in (small / "keyframes" / "corrected_cameras").iterdir():
        fields = json.loads(file.read_text())
        for key in ("blur_score", "neighbors", "manual_keyframe", "timestamp"):
            del fields[key]
        file.write_text(json.dumps(fields))
    assert len(read_export(str(small)).keyframes) == 24


def test_folders_that_are_not_exports(tmp_path, small):
    assert code_of(read_export, str(tmp_path / "nowhere"))[0] == "capture.not_found"
    assert code_of(read_export, str(tmp_path / "nowhere.zip"))[0] == "capture.not_found"
    assert code_of(read_export, str(small / "mesh_info.json"))[0] == "capture.unsupported_source"
    (tmp_path / "empty").mkdir()
    assert code_of(read_export, str(tmp_path / "empty"))[0] == "polycam.not_an_export"
    (tmp_path / "empty" / "keyframes").mkdir()
    assert code_of(read_export, str(tmp_path / "empty"))[0] == "polycam.not_an_export"
    for name in ("images", "cameras", "corrected_images", "corrected_cameras", "depth"):
        (tmp_path / "empty" / "keyframes" / name).mkdir()
    assert code_of(read_export, str(tmp_path / "empty"))[0] == "polycam.not_an_export"
    (tmp_path / "empty" / "keyframes" / "cameras" / "1.json").write_text("{}")
    assert code_of(read_export, str(tmp_path / "empty"))[0] == "polycam.no_keyframes"
    many = tmp_path / "many" / "keyframes" / "cameras"
    many.mkdir(parents=True)
    for index in range(MAX_KEYFRAMES + 1):
        (many / f"{index}.json").touch()
    assert code_of(read_export, str(tmp_path / "many"))[0] == "polycam.too_many_keyframes"


def test_links_that_lead_outside_are_refused(small, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    image = small / "keyframes" / "corrected_images" / f"{START_US}.jpg"
    image.unlink()
    image.symlink_to(tmp_path / "secret.jpg")
    assert code_of(read_export, str(small))[0] == "capture.unsafe_path"


def altered(folder: Path, to: Path, extra=(), method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip file of the folder with additional members."""
    with zipfile.ZipFile(to, "w", method) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"scan/{path.relative_to(folder)}")
        for name, data in dict(extra).items():
            archive.writestr(name, data)
    return to


@pytest.mark.parametrize(
    "name", ["../evil.json", "scan/../../evil.jpg", "/etc/evil.jpg", "..\\evil.jpg", "C:\\evil.jpg", "a::b.jpg"]
)
def test_zips_with_names_that_lead_outside_are_refused(small, tmp_path, name):
    archive = altered(small, tmp_path / "evil.zip", {name: b"x"})
    before = sorted(tmp_path.rglob("*"))
    assert code_of(read_export, str(archive))[0] == "capture.unsafe_path"
    assert sorted(tmp_path.rglob("*")) == before


def test_broken_zips(small, tmp_path):
    whole = zipped(small).read_bytes()
    for index, part in enumerate((0, 10, len(whole) // 2, len(whole) - 30)):
        file = tmp_path / f"cut{index}.zip"
        file.write_bytes(whole[:part])
        assert code_of(read_export, str(file))[0] == "capture.invalid_archive"
    # Missing cameras and missing photos.
    good = altered(small, tmp_path / "good.zip")
    for folder in ("corrected_cameras", "corrected_images"):
        data = bytearray(good.read_bytes())
        with zipfile.ZipFile(good) as archive:
            for member in archive.infolist():
                if f"/{folder}/" in member.filename:
                    start = member.header_offset + 30 + len(member.filename)
                    data[start : start + 40] = b"\xff" * 40
        (tmp_path / "damaged.zip").write_bytes(bytes(data))
        assert code_of(lambda: pick_views(read_export(str(tmp_path / "damaged.zip"))))[0] == "capture.invalid_archive"
    # A repeated name, and an encrypted member.
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = altered(small, tmp_path / "twice.zip", {"scan/mesh_info.json": b"{}"})
    assert code_of(read_export, str(twice))[0] == "capture.invalid_archive"
    data = bytearray(good.read_bytes())
    place = data.index(b"PK\x01\x02")
    data[place + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(bytes(data))
    assert code_of(read_export, str(tmp_path / "locked.zip"))[0] == "capture.invalid_archive"


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_zip_with_any_damage_gives_a_code_or_views(tmp_path_factory, fuzzed, data):
    whole = bytearray(fuzzed)
    for _ in range(data.draw(st.integers(1, 12))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.mktemp("fuzz") / "scan.zip"
    file.write_bytes(bytes(whole))
    try:
        export = read_export(str(file))
        write_views(export, pick_views(export), file.parent / "out" / "sku")
    except GaprayError as error:
        assert error.code in REMEDIES and error.code != "internal.error"


@pytest.fixture(scope="module")
def fuzzed(make, samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "scan"
    return zipped(Make(samples, pictures=make.pictures).write(folder, shaken(turn(16), 5))).read_bytes()


def giant_png(side: int) -> bytes:
    """A header for side x side pixels, followed by almost no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def replace_photos(folder: Path, data: bytes) -> None:
    for path in (folder / "keyframes" / "corrected_images").iterdir():
        path.write_bytes(data)


def test_huge_photos_are_refused_before_they_are_decoded(small, tmp_path):
    replace_photos(small, giant_png(18_500))  # 1 GB of pixels
    assert code_of(pick_views, read_export(str(small)))[0] == "image.too_many_pixels"
    # A member declared to have 1 GB is not even opened.
    archive = altered(small, tmp_path / "big.zip", method=zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    place = 0
    while (place := data.find(b"PK\x01\x02", place + 1)) >= 0:
        length = struct.unpack_from("<H", data, place + 28)[0]
        if b"corrected_images" in data[place + 46 : place + 46 + length]:
            struct.pack_into("<I", data, place + 24, 2**30)
    archive.write_bytes(bytes(data))
    assert code_of(pick_views, read_export(str(archive)))[0] == "image.too_many_bytes"
    replace_photos(small, b"x" * 2000)
    assert (
        code_of(pick_views, read_export(str(small)), settings=DecodeSettings(max_bytes=1000))[0]
        == "image.too_many_bytes"
    )
    assert code_of(pick_views, read_export(str(small)))[0] == "image.unsupported"
    replace_photos(small, b"")
    assert code_of(pick_views, read_export(str(small)))[0] == "image.empty"
    assert code_of(pick_views, read_export(str(zipped(small))))[0] == "image.empty"


def test_photos_of_another_shape_are_refused(small):
    file = io.BytesIO()
    Image.new("RGB", (192, 256)).save(file, "JPEG")
    replace_photos(small, file.getvalue())
    code, message = code_of(pick_views, read_export(str(small)))
    assert code == "polycam.size_mismatch" and "192 x 256" in message


@pytest.mark.parametrize(
    ("folder", "image"),
    [
        ("depth", np.zeros((64, 48), np.uint16)),
        ("depth", np.zeros((48, 64), np.uint8)),
        ("depth", np.zeros((384, 512), np.uint16)),
        ("depth", np.zeros((8, 10), np.uint16)),
        ("confidence", np.zeros((24, 32), np.uint8)),
        ("confidence", np.zeros((48, 64), np.uint16)),
    ],
)
def test_depth_of_a_wrong_size_or_kind(small, tmp_path, folder, image):
    for path in (small / "keyframes" / folder).iterdir():
        path.write_bytes(png(image))
    export = read_export(str(small))
    assert code_of(write_views, export, pick_views(export), tmp_path / "mug")[0] == "polycam.invalid_depth"
    assert not (tmp_path / "mug").exists()


def test_depth_without_confidence_is_kept(small, tmp_path):
    for path in (small / "keyframes" / "confidence").iterdir():
        path.unlink()
    export = read_export(str(small))
    out = write_views(export, pick_views(export), tmp_path / "mug")
    depth = cv2.imread(str(out / "depth" / "mug_180.png"), cv2.IMREAD_UNCHANGED)
    assert (depth[0] == np.arange(1004, 1060)).all()


def test_the_command_writes_views_that_gapray_reads(small, tmp_path):
    from typer.testing import CliRunner

    from gapray.cli.main import app

    source = small
    command = ["capture", str(source), "--out", str(tmp_path / "mug"), "--json"]
    output = json.loads(CliRunner().invoke(app, command).stdout)
    assert [view["angle_deg"] for view in output["views"]] == [45.0 * step for step in range(8)]
    [found] = discover(output["folder"])
    assert len(found.photos) == 8
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 4 and "capture.out_not_empty" in again.stdout
