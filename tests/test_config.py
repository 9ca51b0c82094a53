"""Every setting says what it can change, and the keys believe it."""

import types
import typing

import pytest
from pydantic import BaseModel, ValidationError

from gapray.batch.score_stages import ScoreFacts
from gapray.batch.stills_stages import StillFacts
from gapray.config import Profile, Result, Role, VideoSettings, Work, _Settings, load_profile
from gapray.errors import ConfigError
from gapray.stills.scene import Scene

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
        yield from ("#123456", 1, 0.5)


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

        class Fresh(_Settings):
            steps: Result[int] = 1
            size: int = 2

    class Whole(_Settings, role=Role.RESULT):
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
    groups = {group for group in _Settings.__subclasses__() if group.__module__ == "gapray.config"}

    def reached(kind):
        yield kind
        for field in kind.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, _Settings):
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
