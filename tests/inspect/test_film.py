"""Picking frames from turntable videos with known angles."""

import dataclasses
import json
from itertools import pairwise

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from gapray.capture.discover import discover
from gapray.cli.main import app
from gapray.errors import ConfigError, InputError
from gapray.inspect.film import pick_frames, read_turntable, write_frames
from gapray.inspect.turn import find_turn
from tests.inspect.turns import Shot, angles_of, film, pick_errors, play, sample_turn, seen, spin_turn, write_video
from tests.make import photo

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def mug():
    return sample_turn("mug")


@pytest.mark.parametrize(
    "shot",
    [
        Shot(start_deg=40, turns=1.2, fps=30, phase=1.0),
        Shot(start_deg=200, turns=1.08, direction=-1, fps=60, seconds=6, cycles=2, rotation=90),
        Shot(start_deg=300, turns=2.1, fps=24, seconds=6, phase=4, jitter=0.4, rotation=270, hand=0.3),
    ],
)
def test_views_of_a_turn_with_a_speed_that_varies(tmp_path, mug, shot):
    shown = film(tmp_path / "turn.mp4", mug, shot)
    found = read_turntable(tmp_path / "turn.mp4")
    assert found.turn.direction == shot.direction
    assert found.turn.span_deg == pytest.approx(np.ptp(shown), abs=6)
    stills = pick_frames(found)
    assert [pick.nominal_deg for pick in stills] == [45.0 * step for step in range(8)]
    assert pick_errors(stills, shown).max() <= 4
    if shot.hand is not None:
        assert 0.2 < found.turn.covered.sum() / shot.fps < 0.8
        assert not any(found.turn.covered[pick.frame] for pick in stills)
    folder = write_frames(found, stills, tmp_path / "mug")
    [product] = discover(str(folder))
    assert [photo.name for photo in product.photos] == [f"mug_{45 * step:03d}.jpg" for step in range(8)]
    upright = cv2.imread(str(folder / "mug_000.jpg"))[..., ::-1].astype(float)
    assert np.abs(upright - seen(mug, shown[stills[0].frame])).mean() < 6, "turned as the tag says"


@pytest.mark.long
@pytest.mark.parametrize("name", ["awair_monitor", "dresser_brown", "infinity_hiro_figure", "vans_plaid_shoe"])
def test_views_of_photo_series_played_as_videos(tmp_path, spins, name):
    photos = spin_turn(spins / name)
    errors = []
    for start, turns, direction in ((0, 1.15, 1), (9, 1.5, -1)):
        shown = play(tmp_path / "turn.mp4", photos, start=start, turns=turns, direction=direction)
        found = read_turntable(tmp_path / "turn.mp4")
        true = found.turn.direction * shown  # which way these products turned is not known
        # With steps of 10 degrees, a pick is compared with the angle that is written, not with the nominal one.
        errors += [abs((true[pick.frame] - pick.azimuth_deg + 180) % 360 - 180) for pick in pick_frames(found)]
    assert max(errors) <= 4, np.round(errors, 1)


@pytest.mark.long
def test_the_sharpest_of_neighbouring_frames_is_taken(tmp_path, mug):
    times, angles = angles_of(Shot(turns=1.1, ripple=0, seconds=6))
    blurred = set(range(0, len(times), 3)) | set(range(1, len(times), 3))
    pictures = (
        cv2.GaussianBlur(seen(mug, angle), (0, 0), 2.5) if index in blurred else seen(mug, angle)
        for index, angle in enumerate(angles)
    )
    write_video(tmp_path / "turn.mp4", pictures, times, fps=30)
    stills = pick_frames(read_turntable(tmp_path / "turn.mp4"))
    assert not any(pick.frame in blurred for pick in stills)


def test_the_front_may_be_any_moment(tmp_path, mug):
    shown = film(tmp_path / "turn.mp4", mug, Shot(turns=1.3))
    found = read_turntable(tmp_path / "turn.mp4")
    first = pick_frames(found, 4, front_s=2.0)[0]
    assert (
        found.times[first.frame] == pytest.approx(2.0, abs=0.15)
        or abs((shown[first.frame] - np.interp(2.0, found.times, shown) + 180) % 360 - 180) < 4
    )
    with pytest.raises(ConfigError):
        pick_frames(found, 3)


def refused(frames, times):
    with pytest.raises(InputError) as error:
        find_turn(frames, np.asarray(times, float))
    return error.value.code


def grey(pictures):
    return [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]


def test_less_than_a_turn_is_refused(mug):
    times, angles = angles_of(Shot(turns=0.9))
    assert refused(grey(seen(mug, angle) for angle in angles), times) == "turn.incomplete"


def test_a_video_without_rotation_is_refused(mug):
    rng = np.random.default_rng(0)
    still = [np.clip(mug[0][..., 1] + rng.normal(0, 1, mug[0].shape[:2]), 0, 255).astype(np.uint8) for _ in range(60)]
    assert refused(still, np.arange(60) / 30) == "turn.no_motion"
    assert refused(still[:1], [0.0]) == "turn.no_motion"


def test_what_looks_the_same_from_everywhere_is_refused():
    """A plain pot with fine speckles, which move although all sides look the same."""
    rng = np.random.default_rng(1)
    speckle = rng.integers(0, 40, (120, 720)).astype(np.float32)
    frames = []
    for step in range(100):
        frame = np.full((160, 160), 230, np.uint8)
        columns = np.arange(-60, 61)
        around = np.degrees(np.arcsin(columns / 61)) + 4.0 * step
        frame[20:140, 20:141] = 90 + speckle[:, (np.rint(around * 2) % 720).astype(int)]
        frames.append(frame)
    assert refused(frames, np.arange(100) / 25) in ("turn.unobservable", "turn.incomplete")


def test_a_hand_that_never_leaves_covers_its_angles(tmp_path, mug):
    film(tmp_path / "turn.mp4", mug, Shot(turns=1.1))
    found = read_turntable(tmp_path / "turn.mp4")
    covered = np.abs(found.turn.azimuth_deg % 360 - 90) < 30
    hidden = dataclasses.replace(found, turn=dataclasses.replace(found.turn, covered=covered))
    with pytest.raises(InputError, match="90") as error:
        pick_frames(hidden)
    assert error.value.code == "turn.covered"


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_damaged_videos_have_a_code(tmp_path, mug, damage):
    path = tmp_path / "turn.mp4"
    film(path, mug, Shot(turns=1.05, seconds=4))
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"no video at all" * 50, "cut": data[: len(data) // 2]}[damage])
    with pytest.raises(InputError) as error:
        read_turntable(path)
    assert error.value.code == "video.unreadable"


def test_the_command(tmp_path, mug):
    film(tmp_path / "turn.mp4", mug, Shot(turns=1.2))
    run = CliRunner().invoke(app, ["capture", str(tmp_path / "turn.mp4"), "--out", str(tmp_path / "mug"), "--json"])
    assert run.exit_code == 0, run.output
    output = json.loads(run.stdout)
    assert len(output["views"]) == 8 and len(discover(output["folder"])[0].photos) == 8
    again = CliRunner().invoke(app, ["capture", str(tmp_path / "turn.mp4"), "--out", str(tmp_path / "mug")])
    assert again.exit_code == 4 and "capture.out_not_empty" in again.output
    still = CliRunner().invoke(app, ["capture", str(tmp_path / "still.mp4"), "--out", str(tmp_path / "x"), "--json"])
    assert still.exit_code == 4 and json.loads(still.stdout)["error"]["code"] == "video.unreadable"
    wrong = CliRunner().invoke(
        app, ["capture", str(tmp_path / "turn.mp4"), "--out", str(tmp_path / "y"), "--front", "left"]
    )
    assert wrong.exit_code == 2 and "seconds" in wrong.output


def test_drifting_stripes_are_not_taken_for_a_turn():
    """Stripes drift over a slab without any rotation: the result is an error, or correct."""
    frames = [cv2.cvtColor(photo(step * 4 % 360, size=200), cv2.COLOR_RGB2GRAY) for step in range(110)]
    try:
        turn = find_turn(frames, np.arange(110) / 25)
    except InputError as error:
        assert error.code.startswith("turn.")
    else:
        assert turn.span_deg == pytest.approx(436, abs=20)


@pytest.mark.parametrize(
    "path",
    [(0, 180, -20), (0, 370, 100), (0, 25, 0, 400)],
    ids=["half a turn and back", "a turn and back", "rocked first"],
)
def test_a_product_that_turns_back_is_refused(tmp_path, mug, path):
    """Its other side may be missing, and its angles would be taken for an even turn."""
    legs = [np.linspace(start, end, max(2, abs(end - start) // 3), endpoint=False) for start, end in pairwise(path)]
    angles = np.concatenate(legs)
    write_video(tmp_path / "back.mp4", (seen(mug, angle) for angle in angles), np.arange(len(angles)) / 24, fps=24)
    with pytest.raises(InputError) as error:
        read_turntable(tmp_path / "back.mp4")
    assert error.value.code == "turn.turns_back"
