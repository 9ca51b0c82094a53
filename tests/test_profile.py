"""Every setting says what it can change, and the keys believe it."""

import types
import typing

import pytest
from pydantic import BaseModel, ValidationError

from gapray.batch.score_stages import ScoreFacts
from gapray.batch.stills_stages import StillFacts
from gapray.errors import ConfigError
from gapray.generators import GeneratorSettings, NoSettings
from gapray.profile import Profile, load_profile, with_flags
from gapray.settings import Result, Role, Settings, Work
from gapray.stills.scene import Scene
from gapray.video.settings import VideoSettings

PROFILE = load_profile("sd15", overrides=["stills.backend=sdxl"], environment={})
"""With both diffusion backends chosen, so that their settings count."""


def leaves(settings, path=()):
    """(path, role) of every setting that is no group."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), settings.roles[name]


LEAVES = dict(leaves(PROFILE))


def others(value, annotation):
    """Values that might stand in the same place."""
    arguments = typing.get_args(annotation)
    if isinstance(annotation, types.UnionType):
        yield from (candidate for kind in arguments for candidate in others(value, kind))
    if typing.get_origin(annotation) is typing.Literal:
        yield from arguments
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield from (value + 1, value - 1, value + 8, value + 14, value * 0.9, value + 0.01)
    elif isinstance(value, tuple):
        yield from (value[::-1] + value[:1], value[:-1])
    else:
        yield from ("#123456", "morph", "composite", 1, 0.5)


def changed(settings, path):
    """The same settings with another valid value at `path`."""
    name, *rest = path
    value = getattr(settings, name)
    if rest:
        return settings.model_copy(update={name: changed(value, rest)})
    for other in others(value, type(settings).model_fields[name].annotation):
        try:
            found = type(settings).model_validate(settings.model_dump() | {name: other})
        except ValidationError:
            continue
        if getattr(found, name) != value:
            return found
    raise AssertionError(f"no other value for {name}")


def keys(profile):
    """Of everything that is made with these settings."""
    scores = ScoreFacts("run", "catalog", profile, "mask@1", "identity@1", "trunk")
    stills = StillFacts("run", "catalog", profile, {}, "judge")
    return {
        "package": profile.packaging.digest({}),
        "video": profile.video.digests(profile.orbit, "web", {}, ["product"], 0),
        "still": stills.key("product", Scene(name="s", prompt="p"), 0),
        "score": scores.key("video", []),
    }


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_a_setting_changes_keys_if_and_only_if_it_changes_results(path):
    assert (keys(changed(PROFILE, path)) != keys(PROFILE)) == (LEAVES[path] is Role.RESULT)


def test_work_and_gate_settings_are_in_no_key():
    """The settings that were once hashed, and with which a remedy re-rendered a whole catalogue."""
    roles = {".".join(path): role for path, role in LEAVES.items()}
    for name in (
        "video.animatediff.decode_chunk",
        "video.animatediff.compile",
        "stills.sdxl.batch",
        "stills.sdxl.compile",
    ):
        assert roles[name] is Role.WORK
    for name in ("stills.min_same", "fidelity.gate.max_lpips", "packaging.decode.max_pixels"):
        assert roles[name] is Role.GATE
    assert {role for name, role in roles.items() if name.startswith("run.")} == {Role.WORK}


def test_a_scores_key_covers_how_both_sides_are_cut_out_and_compared():
    """It once left out masks: a run whose clean-up was corrected skipped what was scored with the wrong one."""
    before = keys(PROFILE)["score"]
    covered = {path[:2] for path in LEAVES if keys(changed(PROFILE, path))["score"] != before}
    assert {("packaging", "mask"), ("packaging", "decode"), ("fidelity", "size"), ("fidelity", "leave_out")} <= covered
    assert ("fidelity", "gate") not in covered
    # What drew the video is in the video's key, which is all that counts of it, whatever profile scores.
    assert not {group for group, _ in covered} & {"orbit", "video", "stills", "run"}
    for facts in (
        ScoreFacts("run", "catalog", PROFILE, "mask@2", "identity@1", "trunk"),
        ScoreFacts("run", "catalog", PROFILE, "mask@1", "identity@2", "trunk"),
        ScoreFacts("run", "catalog", PROFILE, "mask@1", "identity@1", "other"),
    ):
        assert facts.key("video", []) != before
    other = StillFacts("run", "catalog", PROFILE, {}, "another judge")
    assert other.key("product", Scene(name="s", prompt="p"), 0) != keys(PROFILE)["still"]


def test_a_setting_without_a_role_raises():
    with pytest.raises(TypeError, match="Fresh.size does not say"):

        class Fresh(Settings):
            steps: Result[int] = 1
            size: int = 2

    class Whole(Settings, role=Role.RESULT):
        size: int = 2
        threads: Work[int] = 3

    assert Whole().results() == {"size": 2}


def test_results_can_be_computed_in_another_way():
    drawn = load_profile(
        "sd15", overrides=["video.animatediff.steps=7", "video.animatediff.decode_chunk=24"], environment={}
    ).video
    here = load_profile(
        "sd15", overrides=["video.animatediff.steps=9", "video.animatediff.decode_chunk=4"], environment={}
    ).video
    found = drawn.computed_as(here)
    assert (found.animatediff.steps, found.animatediff.decode_chunk) == (7, 4)
    assert found.results() == drawn.results()
    assert VideoSettings().computed_as(here).backend == "morph"


def test_no_group_of_settings_is_left_out():
    def below(kind):
        return {kind}.union(*map(below, kind.__subclasses__()))

    groups = {group for group in below(Settings) if group.__module__.startswith("gapray.")}
    groups -= {Settings, GeneratorSettings, NoSettings}  # the bases

    def reached(kind):
        yield kind
        for field in kind.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
                yield from reached(field.annotation)

    assert groups == set(reached(Profile))


def test_a_config_file_names_settings_as_overrides_do(tmp_path):
    """Both `mask.model` and `packaging.mask.model`, which are one setting."""
    path = tmp_path / "c.yaml"
    for text in ("mask:\n  model: u2net\n", "packaging:\n  mask:\n    model: u2net\n"):
        path.write_text(text + "orbit:\n  frames: 12\n")
        found = load_profile(config_file=path)
        assert (found.packaging.mask.model, found.orbit.frames) == ("u2net", 12)
        assert found == load_profile(overrides=["mask.model=u2net", "orbit.frames=12"])
    path.write_text("mask:\n  model: u2net\npackaging:\n  depth:\n    elevation_deg: 20\n")
    found = load_profile(config_file=path).packaging
    assert (found.mask.model, found.depth.elevation_deg) == ("u2net", 20)
    path.write_text("mask:\n  model: u2net\npackaging:\n  mask:\n    model: u2netp\n")
    with pytest.raises(ConfigError, match="mask stands in `packaging` and outside"):
        load_profile(config_file=path)


def message_of(**arguments):
    with pytest.raises(ConfigError) as error:
        load_profile(environment={}, **arguments)
    assert error.value.code == "config.invalid"
    return error.value.message


@pytest.mark.parametrize("value", ["010", "1_28", "1:30", "0x10", "yes", "true", "{a: 1, a: 1}"])
def test_only_plain_numbers_are_numbers(value, tmp_path):
    """`010` was 8, `1_28` was 128, and `yes` was 1."""
    assert "orbit.frames" in message_of(overrides=[f"orbit.frames={value}"])
    path = tmp_path / "c.yaml"
    path.write_text(f"orbit:\n  frames: {value}\n")
    assert "orbit.frames" in message_of(config_file=path)
    with pytest.raises(ConfigError, match=r"ORBIT__FRAMES|orbit\.frames"):
        load_profile(environment={"GAPRAY_SET_ORBIT__FRAMES": value})


@pytest.mark.parametrize(("value", "wanted"), [("off", False), ("no", False), ("on", True), ("true", True)])
def test_words_are_booleans_where_one_is_wanted(value, wanted):
    found = load_profile(overrides=[f"mask.cleanup={value}", f"stills.sdxl.product={value!r}"], environment={})
    assert found.packaging.mask.cleanup is wanted and found.stills.sdxl.product == value


def test_a_group_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("orbit:\n  frames: 8\nmask:\n  model: u2net\norbit:\n  size: 64\n")
    assert "orbit is there twice" in message_of(config_file=path)


def test_a_setting_with_dots_in_a_config_file_is_to_be_nested(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("orbit.frames: 8\n")
    assert "write orbit.frames nested" in message_of(config_file=path)


@pytest.mark.parametrize(("name", "meant"), [("set", None), ("sise", "orbit.size"), ("modle", "mask.model")])
def test_only_close_names_are_suggested(name, meant, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"{name}: 1\n" if meant is None else f"{meant.partition('.')[0]}:\n  {name}: 1\n")
    told = message_of(config_file=path)
    assert told.endswith(f"did you mean {meant}?") if meant else "did you mean" not in told


def test_a_flag_and_a_set_of_one_setting_must_agree():
    flags = {"orbit.frames": ("--frames", 6), "video.backend": ("--backend", None)}
    assert with_flags(None, flags) == ["orbit.frames=6"]
    assert load_profile(overrides=with_flags(["orbit.size=64"], flags)).orbit.frames == 6
    assert load_profile(overrides=with_flags(["orbit.frames=6", "video.backend=morph"], flags)).orbit.frames == 6
    for other in ("orbit.frames=8", "orbit={frames: 8}", "orbit.frames=null"):
        with pytest.raises(ConfigError, match="orbit.frames has two values, 6 by --frames and"):
            with_flags([other], flags)
