"""Backend `sdxl` on tiny random weights: equal to diffusers with every refinement off, and each input has an effect."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gapray.errors import GaprayError
from gapray.gap.package import GapPackage
from gapray.profile import load_profile
from gapray.resample import resized
from gapray.stills.load import load_still_backend, still_revisions
from gapray.stills.scene import Scene
from gapray.stills.sdxl.backend import Sdxl, control_images, on_grey
from gapray.stills.sdxl.prompts import encoded
from gapray.stills.sdxl.settings import SdxlSettings
from gapray.stills.settings import StillSettings
from tests.make import view
from tests.stills.tiny_xl import SIDE, pipeline, write_mirror

SCENE = Scene(name="table", prompt="{product} on a table", negative_prompt="a bad photo")
MEGAPIXELS = SIDE * SIDE / 2**20


def settings(**changes):
    plain = {"steps": 4, "references": 1, "masked": False, "control_end": (1.0, 0.6), "control_scale": (0.5, 0.7)}
    return StillSettings(backend="sdxl", megapixels=MEGAPIXELS, sdxl=SdxlSettings(**(plain | changes)))


def package():
    return GapPackage(
        "mug", "k" * 64, tuple(view(45.0 * step, size=SIDE, seed=step) for step in range(8)), 1.0, 0.0, {}
    )


def drawn(changed=None, scene=SCENE, pack=None, seeds=(0,), pipe=None, **changes):
    pack = pack or package()
    pipe = pipe or pipeline(plus=True)
    backend = Sdxl(pipe, licence="x")
    return backend.generate(pack, pack.views[0], scene, settings(**changes), seeds=seeds)


@pytest.mark.parametrize(("guidance", "plus"), [(5.0, True), (5.0, False), (1.0, True)])
def test_without_refinements_it_equals_diffusers_own_pipeline(guidance, plus):
    pack = package()
    noise = torch.randn((1, 4, SIDE // 8, SIDE // 8), generator=torch.Generator().manual_seed(3))
    controls = [torch.from_numpy(image)[None] for image in control_images(pack.views[0], (SIDE, SIDE))]
    theirs = pipeline(plus=plus)(
        prompt=SCENE.prompt_for("a product"),
        negative_prompt=SCENE.negative_prompt,
        image=controls,
        height=SIDE,
        width=SIDE,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=noise,
        controlnet_conditioning_scale=[0.5, 0.7],
        control_guidance_end=[1.0, 0.6],
        ip_adapter_image=Image.fromarray(on_grey(pack.views[0])),
        output_type="latent",
    ).images
    chosen = settings(guidance=guidance).sdxl
    backend = Sdxl(pipeline(plus=plus), licence="x")
    shared = backend._shared(pack, pack.views[0], SCENE, chosen, (SIDE, SIDE))
    ours = backend.engine.denoise([replace(shared, noise=noise[0])], chosen)
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_a_batch_equals_its_pictures_made_alone():
    both = drawn(seeds=(0, 1), batch=2)
    alone = drawn(seeds=(1,), batch=2)
    assert np.abs(both[1].image.astype(int) - alone[0].image.astype(int)).max() <= 1
    assert (both[0].image != both[1].image).any() and not both[0].pasted


def test_each_input_has_an_effect():
    base = drawn(masked=True, references=2)[0].image
    pack = package()
    first = pack.views[0]

    def with_first(**changes):
        return replace(pack, views=(replace(first, **changes), *pack.views[1:]))

    other = [
        drawn(masked=True, references=2, scene=Scene(name="x", prompt="a red lamp", negative_prompt="a bad photo")),
        drawn(masked=True, references=2, scene=SCENE.model_copy(update={"negative_prompt": "blue"})),
        drawn(masked=True, references=2, pack=with_first(depth=first.depth[::-1].copy())),
        drawn(masked=True, references=2, pack=with_first(canny=255 - first.canny)),
        drawn(masked=True, references=2, pack=with_first(reference=255 - first.reference)),
        drawn(masked=True, references=3),
        drawn(masked=False, references=2),
        drawn(masked=True, references=2, seeds=(1,)),
        drawn(masked=True, references=2, control_end=(0.2, 0.2)),
        drawn(masked=True, references=2, ip_scale=0.1),
    ]
    assert [index for index, [still] in enumerate(other) if np.array_equal(still.image, base)] == []


def test_the_exact_product_is_the_photos():
    pack = package()
    [still] = drawn(exact=True, pack=pack)
    assert still.pasted
    inside = resized(pack.views[0].mask, still.image.shape[:2]) > 0
    inner = np.zeros_like(inside)
    inner[22:42, 22:42] = inside[22:42, 22:42]
    photo = resized(pack.views[0].reference, still.image.shape[:2])
    assert np.abs(still.image[inner].astype(int) - photo[inner].astype(int)).max() <= 2
    assert np.abs(still.image[~inside].astype(int) - photo[~inside].astype(int)).mean() > 10


def test_prompts_of_one_window_equal_diffusers_and_longer_ones_are_read_to_the_end():
    pipe = pipeline(plus=None)
    texts = ["a mug on a table", "bad"]
    states, pooled = encoded(pipe, texts)
    theirs, _, their_pooled, _ = pipe.encode_prompt(texts[0], do_classifier_free_guidance=False)
    assert torch.allclose(states[:1], theirs, atol=1e-6) and torch.allclose(pooled[:1], their_pooled, atol=1e-6)
    long = " ".join(["abcdefg"] * 40)
    states, _ = encoded(pipe, [long, "bad"])
    other, _ = encoded(pipe, [long + " z", "bad"])
    assert states.shape[1] > 77 and states.shape[1] % 77 == 0 and not torch.equal(states, other)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"prompt": "  "}, "still.empty_prompt"),
        ({"prompt": "x" * 10_000}, "still.prompt_too_long"),
    ],
)
def test_bad_prompts_are_refused(change, code):
    with pytest.raises(GaprayError) as error:
        drawn(scene=SCENE.model_copy(update=change))
    assert error.value.code == code


def test_engines_load_from_cards_and_wrong_cards_are_refused(tmp_path, monkeypatch):
    write_mirror(tmp_path)
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path))
    monkeypatch.setenv("GAPRAY_CACHE", str(tmp_path / "cache"))
    chosen = load_profile(
        "classic", overrides=["stills.backend=sdxl", f"stills.megapixels={MEGAPIXELS}", "stills.sdxl.steps=2"]
    )
    assert set(still_revisions(chosen.stills)) == set(chosen.stills.cards())
    backend = load_still_backend(chosen.stills, device="cpu")
    pack = package()
    [still] = backend.generate(pack, pack.views[0], SCENE, chosen.stills, seeds=[0])
    assert still.image.shape == (SIDE, SIDE, 3) and "Apache-2.0" in backend.licence
    wrong = chosen.stills.model_copy(
        update={"sdxl": chosen.stills.sdxl.model_copy(update={"controlnets": ("ip-adapter-plus-sdxl",)})}
    )
    with pytest.raises(GaprayError) as error:
        load_still_backend(wrong, device="cpu")
    assert error.value.code == "model.wrong_part"
    (tmp_path / "controlnet-canny-sdxl" / "config.json").write_text("{}")
    with pytest.raises(GaprayError) as error:
        load_still_backend(chosen.stills, device="cpu")
    assert error.value.code in ("model.wrong_part", "model.hash_mismatch")
