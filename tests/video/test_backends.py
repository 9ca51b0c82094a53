import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gapray.errors import InputError, ModelError
from gapray.orbit.conditions import build_conditions
from gapray.orbit.settings import OrbitSettings
from gapray.profile import load_profile
from gapray.video.animatediff.backend import composited
from gapray.video.animatediff.settings import AnimateDiffSettings
from gapray.video.decode import read_frames
from gapray.video.encode import encode_mp4
from gapray.video.external import External
from gapray.video.load import load_backend, video_revisions
from gapray.video.morph import Morph
from gapray.video.settings import VideoSettings
from tests.orbit.test_conditions import solid_package
from tests.video import tiny

MORPH = OrbitSettings(engine="morph", refine_camera=False)


@pytest.fixture(scope="module")
def package():
    return solid_package()


@pytest.fixture(scope="module")
def conditions(package):
    return build_conditions(package, MORPH.model_copy(update={"size": 64, "voxels": 48, "frames": 16}))


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path / "mirror"))
    monkeypatch.setenv("GAPRAY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mirror").mkdir()
    return tiny.write_mirror(tmp_path / "mirror")


def settings(**changes):
    base = VideoSettings(backend="animatediff")
    return base.model_copy(update={"animatediff": base.animatediff.model_copy(update={"steps": 2} | changes)})


def test_morph_is_the_view_morph(package, conditions):
    backend = load_backend(VideoSettings())
    assert isinstance(backend, Morph) and video_revisions(VideoSettings(), MORPH) == {}
    assert np.array_equal(backend.generate(package, conditions, VideoSettings().chosen), conditions.initial)
    assert not backend.capabilities.needs_gpu


def test_a_foreign_video_becomes_frames_of_the_orbit(package, conditions, tmp_path):
    frames = np.zeros((32, 40, 72, 3), np.uint8)
    frames[np.arange(32), :, np.arange(32) * 2] = 255
    path = tmp_path / "runway.mp4"
    path.write_bytes(encode_mp4(frames, fps=8))
    backend = External(path, label="Runway")
    out = backend.generate(package, conditions, VideoSettings().chosen)
    assert out.shape == (16, 64, 64, 3) and backend.capabilities.name == "Runway"
    assert (out[:, 0] == 255).all()  # letterboxed on the background


def test_a_file_that_is_not_a_video_is_refused(tmp_path):
    for content in (b"", b"not a video", b"\x00\x00\x00\x18ftypmp42" + b"\x00" * 64):
        path = tmp_path / "x.mp4"
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            read_frames(path)
        assert error.value.code == "video.unreadable"
    with pytest.raises(InputError) as error:
        read_frames(tmp_path / "missing.mp4")
    assert error.value.code == "video.unreadable"


def test_animatediff_from_files_end_to_end(package, conditions, mirror):
    del mirror
    chosen = settings()
    backend = load_backend(chosen, device="cpu")
    frames = backend.generate(package, conditions, chosen.chosen, seed=1)
    assert frames.shape == (16, 64, 64, 3) and frames.dtype == np.uint8
    for frame in conditions.key_frames:
        assert np.array_equal(frames[frame], conditions.initial[frame])
    assert np.array_equal(frames, backend.generate(package, conditions, chosen.chosen, seed=1))
    assert not np.array_equal(frames, backend.generate(package, conditions, chosen.chosen, seed=2))
    able = backend.capabilities
    assert able.source_type == "compositeWithTrainedAlgorithmicMedia" and able.max_frames == 32
    assert "CreativeML-OpenRAIL-M" in able.licence
    assert set(video_revisions(chosen, MORPH)) == set(chosen.cards())


def test_key_frames_are_the_photos_up_to_the_autoencoder(package, conditions, mirror):
    del mirror
    chosen = settings(composite=False, release=0.0, strength=1.0)
    backend = load_backend(chosen, device="cpu")
    frames = backend.generate(package, conditions, chosen.chosen)
    keys = list(conditions.key_frames)
    with torch.no_grad():
        through = backend.decode(backend._encoded(conditions.initial))
    assert np.abs(frames[keys].astype(int) - through[keys]).max() <= 1
    others = [frame for frame in range(16) if frame not in keys]
    assert others and np.abs(frames[others].astype(int) - through[others]).max() > 1


def test_the_original_checkpoint_is_converted_once(mirror, package, conditions, tmp_path):
    chosen = settings()
    load_backend(chosen, device="cpu")
    [kept] = (tmp_path / "cache" / "converted").iterdir()
    stamp = kept.stat().st_mtime_ns
    load_backend(chosen, device="cpu")
    assert kept.stat().st_mtime_ns == stamp
    del mirror, package, conditions


class Evil:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("kind", ["pickle", "junk", "other weights"])
def test_a_wrong_checkpoint_is_named_and_never_loaded(mirror, capsys, kind):
    path = mirror / "mm-sd-v15-v2" / "mm_sd_v15_v2.ckpt"
    if kind == "pickle":
        torch.save({"state_dict": {}, "x": Evil()}, path)
    elif kind == "junk":
        path.write_bytes(b"junk")
    else:
        torch.save({"state_dict": {"down_blocks.0.motion_modules.0.nothing.weight": torch.zeros(1)}}, path)
    with pytest.raises(ModelError) as error:
        load_backend(settings(), device="cpu")
    assert error.value.code == "model.wrong_part" and "mm-sd-v15-v2" in error.value.message
    assert "must never run" not in capsys.readouterr().out


@pytest.mark.long
def test_a_missing_part_is_an_error_not_a_weaker_mode(mirror):
    (mirror / "ip-adapter-plus-sd15" / "ip-adapter-plus_sd15.safetensors").unlink()
    with pytest.raises(ModelError) as error:
        load_backend(settings(), device="cpu")
    assert error.value.code == "model.unavailable" and "ip-adapter-plus" in error.value.message


def test_a_card_of_another_family_is_refused(mirror):
    del mirror
    with pytest.raises(ModelError) as error:
        load_backend(settings(motion="ip-adapter-plus-sd15"), device="cpu")
    assert error.value.code == "model.wrong_part"


def test_too_many_frames_are_refused(package, mirror):
    del mirror
    many = build_conditions(package, MORPH.model_copy(update={"size": 64, "voxels": 32, "frames": 36, "flow": False}))
    backend = load_backend(settings(), device="cpu")
    with pytest.raises(InputError) as error:
        backend.generate(package, many, settings().chosen)
    assert error.value.code == "video.unsupported"


def test_running_out_of_memory_decodes_smaller_batches_then_reports_it(mirror, package, conditions, monkeypatch):
    del mirror
    chosen = settings()
    backend = load_backend(chosen, device="cpu")
    plain = backend.generate(package, conditions, chosen.chosen)
    vae = backend._pipe.vae
    decode, sizes = vae.decode, []

    def limited(latents, **options):
        sizes.append(len(latents))
        if len(latents) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return decode(latents, **options)

    monkeypatch.setattr(vae, "decode", limited)
    limit = 2
    again = backend.generate(package, conditions, chosen.chosen)
    assert sizes[0] == 16 and max(sizes[3:]) == 2
    assert np.abs(again.astype(int) - plain).max() <= 1
    limit = 0
    with pytest.raises(ModelError) as error:
        backend.generate(package, conditions, chosen.chosen)
    assert error.value.code == "model.out_of_memory"
    limit = 16
    assert np.array_equal(backend.generate(package, conditions, chosen.chosen), plain)  # and it lives on


def test_compositing_keeps_captured_pixels(conditions):
    drawn = np.zeros_like(conditions.initial)
    out = composited(drawn, conditions)
    for frame in range(16):
        outside = conditions.silhouette[frame] == 0
        assert (out[frame][outside] > 100).mean() > 0.95  # the background, not what was generated
        if frame in conditions.key_frames:
            assert np.array_equal(out[frame], conditions.initial[frame])


def test_profiles_name_their_parts():
    lightning = load_profile("sd15-lightning", environment={}).video
    assert (lightning.animatediff.steps, lightning.animatediff.guidance) == (4, 1)
    assert "animatediff-lightning-4step" in lightning.cards()


def test_video_keys_follow_the_settings_that_draw_them():
    def keys(video, products=("p",)):
        return video.digests(OrbitSettings(), "web", {}, products, 0)

    changed = load_profile("sd15", overrides=["video.animatediff.steps=9"], environment={}).video
    lightning = load_profile("sd15-lightning", environment={}).video
    assert len({*keys(lightning), *keys(changed), *keys(settings())}) == 3
    unused = VideoSettings(animatediff=changed.animatediff)
    assert keys(unused) == keys(VideoSettings())
    assert len(set(keys(settings(), ("p", "q", "r")))) == 3


@given(st.text(alphabet=st.characters(codec="utf-8")))
@example("<product>")
@example('a "product":"<product>" on white')
@example('\\"product\\":\\"<product>\\"')
def test_a_prompt_of_any_characters_has_a_key(prompt):
    def key(product, prompt):
        settings = VideoSettings(backend="animatediff", animatediff=AnimateDiffSettings(prompt=prompt))
        [found] = settings.digests(OrbitSettings(), "web", {}, [product], 0)
        return found

    assert len({key("p", prompt), key("q", prompt), key("p", prompt + "."), key("p", prompt + "p")}) == 4
