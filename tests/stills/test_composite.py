"""Scenes, sizes, and the weight-free backend."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapray.errors import ConfigError, GaprayError, InputError
from gapray.gap.package import GapPackage
from gapray.stills.composite import Composite
from gapray.stills.scene import load_scenes, scene_names
from gapray.stills.settings import StillSettings
from gapray.stills.still import best_view, still_size
from tests.make import view

SETTINGS = StillSettings(megapixels=0.06)


def package(height=160, width=160):
    rng = np.random.default_rng(0)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : -height // 4, width // 3 : -width // 3] = 255
    photo = np.where(mask[..., None] > 0, (200, 30, 40), 255).astype(np.uint8)
    photo[mask > 0] ^= rng.integers(0, 8, (int((mask > 0).sum()), 3), np.uint8)
    only = replace(view(0.0, size=160), reference=photo, mask=mask)
    return GapPackage("box", "k" * 64, (only,), 1.0, 0.0, {})


def drawn(name="marble-kitchen", seeds=(0,), pack=None, **light):
    pack = pack or package()
    [scene] = load_scenes([name])
    scene = scene.model_copy(update={"light": scene.light.model_copy(update=light)})
    return Composite().generate(pack, best_view(pack, None), scene, SETTINGS, seeds=seeds)


def test_fifteen_scenes_ship_and_the_three_of_the_prototype_are_among_them():
    assert len(scene_names()) >= 15 and {"marble-kitchen", "wooden-desk", "gym-studio"} <= set(scene_names())
    for scene in load_scenes(scene_names()):
        assert "{product}" in scene.prompt and "box" in scene.prompt_for("box")


def test_custom_scenes(tmp_path):
    (tmp_path / "moon.yaml").write_text(
        'prompt: "{product} on the moon"\nsurface: {kind: speckle, colours: ["#888888", "#777777"]}\n'
    )
    assert [scene.name for scene in load_scenes([str(tmp_path), "white-studio"])] == ["moon", "white-studio"]
    (tmp_path / "bad.yaml").write_text("prompt: x\nlight: {azimuth_deg: 400}\n")
    for wanted, code in (
        (["nowhere"], "scene.unknown"),
        ([str(tmp_path)], "config.invalid"),
        (["black-studio"] * 2, "config.invalid"),
    ):
        with pytest.raises(ConfigError) as error:
            load_scenes(wanted)
        assert error.value.code == code


def scene_message(*names):
    with pytest.raises(ConfigError) as error:
        load_scenes([str(name) for name in names])
    return error.value.code, error.value.message


@pytest.mark.parametrize("names", [["white-studio", ""], ["", "white-studio"], [" "]])
def test_an_empty_name_is_not_this_folder(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moon.yaml").write_text('prompt: "{product} on the moon"\n')
    code, told = scene_message(*names)
    assert code == "scene.unknown" and "is empty" in told


def test_a_folder_has_scenes_with_both_suffixes(tmp_path):
    assert scene_message(tmp_path)[0] == "scene.unknown"
    for name in ("moon.yml", "desk.yaml", "notes.txt"):
        (tmp_path / name).write_text('prompt: "{product} there"\n')
    assert [scene.name for scene in load_scenes([str(tmp_path)])] == ["desk", "moon"]
    (tmp_path / "moon.yaml").write_text('prompt: "{product} elsewhere"\n')
    assert scene_message(tmp_path) == ("config.invalid", "two scenes have one name, moon")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("negative_prompt: x", "prompt: Field required"),
        ("prompt: a red vase", "{product} is not in it"),
        ('prompt: "{Product} on a table"', "{product} is not in it"),
        ('prompt: "{product} a"\nprompt: "{product} b"', "prompt is there twice"),
        ('prompt: "{product} a"\nlight: {azimuth_deg: 400}', "light.azimuth_deg: "),
        ('prompt: "{product} a"\nlight: {softness: true}', "light.softness: "),
        ('prompt: "{product} a"\nlight: {elevation_deg: 010}', "light.elevation_deg: 010"),
        ('prompt: "{product} a"\nsurface: {colour: x}', "surface.colour: "),
        ('prompt: "{product} a"\nsurface: {colours: [red, blue]}', "surface.colours.0: "),
        ("- a", "holds no mapping"),
        ("", "prompt: Field required"),
    ],
)
def test_an_invalid_scene_names_its_field(text, named, tmp_path):
    (tmp_path / "moon.yaml").write_text(text)
    code, told = scene_message(tmp_path / "moon.yaml")
    assert code == "config.invalid" and "moon.yaml" in told and named in told


@pytest.mark.parametrize(
    "name", ["marble-kitchen", "wooden-desk", "gym-studio", "linen-table", "bathroom-tile", "brushed-steel"]
)
def test_the_product_is_composited_unchanged(name):
    [still] = drawn(name)
    assert still.pasted and still.image.shape[0] % 8 == 0 and still.image.shape[1] % 8 == 0
    inner = cv2.erode(still.placed, np.ones((9, 9), np.uint8)) > 250
    product = still.image[inner].astype(int)
    assert (
        inner.mean() > 0.05
        and abs(product[:, 0].mean() - 198) < 22
        and (product[:, 0] > 2 * product[:, 1]).mean() > 0.98
    )
    assert (np.abs(still.image.astype(int) - (200, 30, 40)).sum(-1) > 60)[still.placed == 0].mean() > 0.98


def test_the_shadow_falls_away_from_the_light():
    def darkness(side):
        lit, unlit = (
            drawn("white-studio", azimuth_deg=side, elevation_deg=30, softness=0.1, shadow=0.9),
            drawn("white-studio", azimuth_deg=side, shadow=0.0),
        )
        gone = unlit[0].image.astype(int).sum(-1) - lit[0].image.astype(int).sum(-1)
        gone[lit[0].placed > 0] = 0
        middle = gone.shape[1] // 2
        return gone[:, :middle].sum(), gone[:, middle:].sum()

    left, right = darkness(70)
    assert left > 1.3 * right
    left, right = darkness(-70)
    assert right > 1.3 * left


def test_equal_seeds_make_equal_pictures():
    first, second = drawn(seeds=(1, 2))
    [again] = drawn(seeds=(2,))
    assert np.array_equal(second.image, again.image) and (first.image != second.image).any()


@given(st.integers(64, 6000), st.integers(64, 6000), st.floats(0.01, 1.0))
def test_sizes_keep_the_aspect(height, width, megapixels):
    if max(height, width) > 3 * min(height, width):
        with pytest.raises(InputError) as error:
            still_size(height, width, megapixels)
        assert error.value.code == "still.aspect"
        return
    tall, wide = still_size(height, width, megapixels)
    assert tall % 8 == wide % 8 == 0 and tall * wide <= megapixels * 2**20
    assert abs(tall - wide * height / width) <= 8 * (1 + height / width)


def test_bad_inputs_are_refused():
    empty = package()
    empty = replace(empty, views=(replace(empty.views[0], mask=np.zeros((160, 160), np.uint8)),))
    with pytest.raises(GaprayError) as error:
        best_view(empty, 0.0)
    assert error.value.code == "still.no_mask"
    with pytest.raises(GaprayError) as error:
        drawn(pack=package(80, 320))
    assert error.value.code == "still.aspect"
