"""Our loop against diffusers' own pipeline, on a tiny random stack."""

import numpy as np
import pytest
import torch
from PIL import Image

from gapray.orbit.weights import view_weights
from gapray.video.animatediff.backend import AnimateDiff
from gapray.video.animatediff.engine import AnimateDiffEngine, Clip
from gapray.video.animatediff.settings import AnimateDiffSettings
from tests.video import tiny

F, V, S = 8, 4, tiny.SIDE
OFF = AnimateDiffSettings(
    steps=3,
    guidance=3.0,
    control_scale=(0.8,),
    ip_scale=0.8,
    start="noise",
    view_blend=False,
    key_frames=False,
    shared_keys=False,
    roll=False,
    composite=False,
    release=0,
    prompt="a box",
    negative_prompt="bad",
)
rng = np.random.default_rng(0)
PHOTOS = rng.integers(0, 255, (V, S, S, 3), dtype=np.uint8)
DEPTH = np.stack([np.full((S, S), (16 + 28 * f) / 255, np.float32) for f in range(F)])
EVEN = view_weights([360 * f / F for f in range(F)], [360 * v / V for v in range(V)])


def settings(**changes):
    return OFF.model_copy(update=changes)


def tools(plus=True, controlnets=1, **changes):
    chosen = settings(**changes)
    backend = AnimateDiff(tiny.pipeline(plus=plus, controlnets=controlnets), chosen, licence="x")
    return backend, backend.engine


def clip_of(backend, *, weights=None, photos=PHOTOS, known=None, keys=(), start=None, seed=0, controls=None):
    onehot = np.zeros((F, V), np.float32)
    onehot[:, 0] = 1
    depth = torch.from_numpy(DEPTH)[:, None].expand(-1, 3, -1, -1)
    return Clip(
        controls=controls or (depth,) * len(backend.engine.controlnets),
        tokens=backend._tokens(photos),
        weights=torch.from_numpy(onehot if weights is None else weights),
        noise=torch.randn((4, F, S // 8, S // 8), generator=torch.Generator().manual_seed(seed)),
        start=start,
        known=known,
        key_frames=keys,
    )


def ours(backend, *clips):
    return backend.engine.denoise(list(clips), backend.prompts(), backend.blank())


def stock(pipe, *, images=None, **changes):
    depths = [Image.fromarray(np.rint(np.repeat(depth[..., None], 3, 2) * 255).astype(np.uint8)) for depth in DEPTH]
    several = isinstance(getattr(pipe.controlnet, "nets", None), torch.nn.ModuleList)
    options = {
        "prompt": "a box",
        "negative_prompt": "bad",
        "num_frames": F,
        "height": S,
        "width": S,
        "num_inference_steps": 3,
        "guidance_scale": 3.0,
        "conditioning_frames": [depths, depths] if several else depths,
        "controlnet_conditioning_scale": [0.8, 0.8] if several else 0.8,
        "ip_adapter_image": Image.fromarray(PHOTOS[0]) if images is None else images,
        "output_type": "latent",
    }
    return pipe(**{**options, **changes}, generator=torch.Generator().manual_seed(0)).frames


def apart(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize(
    ("plus", "guidance", "controlnets"), [(True, 3.0, 1), (False, 3.0, 1), (True, 1.0, 1), (True, 3.0, 2)]
)
def test_with_every_refinement_off_it_equals_diffusers_own_pipeline(plus, guidance, controlnets):
    backend, _ = tools(plus, controlnets, guidance=guidance)
    got = ours(backend, clip_of(backend))
    want = stock(tiny.pipeline(plus=plus, controlnets=controlnets), guidance_scale=guidance)
    assert apart(got, want) < 1e-4


def test_depth_photos_and_time_have_an_effect():
    backend, _ = tools()
    plain = ours(backend, clip_of(backend))
    turned = torch.from_numpy(DEPTH[::-1].copy())[:, None].expand(-1, 3, -1, -1)
    assert apart(ours(backend, clip_of(backend, controls=(turned,))), plain) > 1e-3
    assert apart(ours(backend, clip_of(backend, photos=PHOTOS[::-1])), plain) > 1e-3
    assert apart(plain[:, :, 0], plain[:, :, 1]) > 1e-2


def test_per_frame_views_equal_diffusers_masks():
    backend, _ = tools(view_blend=True)
    mask = torch.from_numpy(EVEN)[:, :, None, None].expand(-1, -1, S, S)
    want = stock(
        tiny.pipeline(),
        images=[[Image.fromarray(photo) for photo in PHOTOS]],
        cross_attention_kwargs={"ip_adapter_masks": [torch.cat([mask, mask])]},
    )
    assert apart(ours(backend, clip_of(backend, weights=EVEN)), want) < 1e-4


def test_a_batch_of_two_clips_equals_each_alone():
    backend, _ = tools(view_blend=True, shared_keys=True, key_frames=True)
    known = torch.randn((4, F, S // 8, S // 8), generator=torch.Generator().manual_seed(5))
    keys = (0, 2, 4, 6)
    clip = clip_of(backend, weights=EVEN, known=known, keys=keys)
    other = clip_of(backend, weights=EVEN, known=-known, keys=keys, photos=PHOTOS[::-1].copy(), seed=3)
    both = ours(backend, clip, other)
    assert apart(both[:1], ours(backend, clip)) < 1e-4
    assert apart(both[1:], ours(backend, other)) < 1e-4


def test_key_frames_are_held_exactly_and_released_softly():
    known = torch.randn((4, F, S // 8, S // 8), generator=torch.Generator().manual_seed(5))
    keys = (0, 2, 4, 6)
    backend, _ = tools(key_frames=True)
    held = ours(backend, clip_of(backend, known=known, keys=keys))
    assert apart(held[0][:, list(keys)], known[:, list(keys)]) < 1e-6
    assert apart(held, ours(tools()[0], clip_of(backend))) > 0.1
    soft, _ = tools(key_frames=True, release=0.4)
    assert apart(ours(soft, clip_of(soft, known=known, keys=keys))[0][:, list(keys)], known[:, list(keys)]) > 1e-3


def test_shared_keys_weaken_with_their_gain():
    keys = (0, 2, 4, 6)
    plain = ours(tools()[0], clip_of(tools()[0]))
    for gain, differs in ((1e-30, False), (1.0, True)):
        backend, _ = tools(shared_keys=True, shared_gain=gain)
        assert (apart(ours(backend, clip_of(backend, keys=keys)), plain) > 1e-3) == differs


def test_shared_keys_stay_below_their_memory_limit():
    backend, engine = tools(shared_keys=True, shared_below=4)
    ours(backend, clip_of(backend, keys=(0, 4)))
    assert {layer.query_dim: processor.neighbours is not None for layer, processor in engine.shared} == {
        32: False,
        64: True,
    }


def test_rolling_the_position_code_is_rolling_the_frames():
    backend, engine = tools()
    clip = clip_of(backend, weights=EVEN)
    engine._prepare([clip], backend.prompts(), backend.blank())
    x, time = clip.noise[None], torch.tensor(10)
    plain = engine._predict(x, time, 2, None)
    shift = 3
    for module, code in zip(engine._positions, engine._plain_positions, strict=True):
        module.pe[:, :F].copy_(code[:, :F].roll(-shift, 1))
    rolled = engine._predict(x, time, 2, None)
    for module, code in zip(engine._positions, engine._plain_positions, strict=True):
        module.pe.copy_(code)
    moved = clip_of(backend, weights=np.roll(EVEN, shift, 0))
    engine._prepare([moved], backend.prompts(), backend.blank())
    want = engine._predict(x.roll(shift, 2), time, 2, None).roll(-shift, 2)
    assert apart(rolled, want) < 1e-4
    assert apart(rolled, plain) > 1e-3


def _without_motion(pipe):
    for name, parameter in pipe.unet.named_parameters():
        if "motion_modules" in name and "proj_out" in name:
            torch.nn.init.zeros_(parameter)


def test_a_photo_changes_only_frames_that_give_it_weight():
    pipe = tiny.pipeline()
    _without_motion(pipe)
    backend = AnimateDiff(pipe, settings(view_blend=True), licence="x")
    other = PHOTOS.copy()
    other[1] = 255 - other[1]
    before, after = (ours(backend, clip_of(backend, weights=EVEN, photos=photos)) for photos in (PHOTOS, other))
    far = [frame for frame in range(F) if EVEN[frame, 1] == 0]
    near = [frame for frame in range(F) if EVEN[frame, 1] > 0]
    assert len(far) == 5
    assert torch.equal(before[:, :, far], after[:, :, far])
    assert all(apart(before[:, :, frame], after[:, :, frame]) > 1e-4 for frame in near)


def test_with_motion_a_photo_still_changes_near_frames_most():
    known = {name: torch.randn((4, F, S // 8, S // 8), generator=torch.Generator().manual_seed(5)) for name in "ab"}
    keys = (0, 2, 4, 6)
    known["b"][:, 2] = torch.randn((4, S // 8, S // 8), generator=torch.Generator().manual_seed(6))
    backend, _ = tools(view_blend=True, key_frames=True, shared_keys=True, roll=True)
    other = PHOTOS.copy()
    other[1] = 255 - other[1]
    before = ours(backend, clip_of(backend, weights=EVEN, known=known["a"], keys=keys))
    after = ours(backend, clip_of(backend, weights=EVEN, photos=other, known=known["b"], keys=keys))
    change = (before - after).abs().mean((0, 1, 3, 4))
    near, far = change[[1, 2, 3]].mean(), change[[5, 6, 7]].mean()
    assert near >= 5 * far > 0


def test_controlnet_stops_after_its_fraction_of_the_steps(monkeypatch):
    backend, engine = tools(control_end=0.34)
    calls = []
    plain = engine._nets[0]
    engine._nets[0] = lambda *args, **kwargs: calls.append(1) or plain(*args, **kwargs)
    got = ours(backend, clip_of(backend))
    assert len(calls) == 1
    assert apart(got, stock(tiny.pipeline(), control_guidance_end=0.34)) < 1e-4


def test_partial_strength_runs_only_the_last_steps_from_the_start_frames():
    steps = []
    backend, _ = tools(start="morph", strength=0.5, steps=4)
    start = torch.zeros((4, F, S // 8, S // 8))
    backend.engine.denoise(
        [clip_of(backend, start=start)],
        backend.prompts(),
        backend.blank(),
        on_step=lambda done, of: steps.append((done, of)),
    )
    assert steps == [(1, 2), (2, 2)]


def test_an_engine_needs_no_image_adapter():
    pipe = tiny.pipeline(plus=None)
    backend = AnimateDiff(pipe, settings(ip_adapter=None), licence="x")
    clip = Clip(
        controls=(torch.from_numpy(DEPTH)[:, None].expand(-1, 3, -1, -1),),
        tokens=None,
        weights=torch.from_numpy(EVEN),
        noise=torch.randn((4, F, S // 8, S // 8), generator=torch.Generator().manual_seed(0)),
        start=None,
        known=None,
        key_frames=(),
    )
    assert isinstance(backend.engine, AnimateDiffEngine)
    assert apart(ours(backend, clip), stock(tiny.pipeline(plus=None), ip_adapter_image=None)) < 1e-4
