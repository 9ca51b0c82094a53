"""Real architectures with tiny random weights, loaded by the same code as hub weights."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from gapray.models.batches import equal_shapes
from gapray.models.canny import CannyEdges
from gapray.models.depth import DepthAnything, HullDepth, MaskedSet
from gapray.models.identity import ColourGradient, OpenClip, mask_square
from gapray.models.mask import NullMask, RembgMask
from tests.make import photo


def rgba(size=56, seed=0):
    mask = NullMask().predict([photo(0, size=size)])[0]
    return np.dstack([photo(40, size=size, seed=seed), mask])


@pytest.fixture(scope="module")
def depth_anything(tmp_path_factory):
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 16, 32, 32],
        fusion_hidden_size=16,
        head_hidden_size=8,
    )
    folder = tmp_path_factory.mktemp("depth")
    model = DepthAnythingForDepthEstimation(config)
    model.save_pretrained(folder)
    return folder, model.eval()


def test_depth_anything_equals_transformers_own_path(depth_anything):
    from transformers import DPTImageProcessor

    folder, reference = depth_anything
    ours = DepthAnything(folder / "config.json", folder / "model.safetensors", device="cpu", batch=3)
    views = [rgba(seed=seed) for seed in range(5)] + [rgba(size=84)]
    [first, second] = ours.predict([MaskedSet(views[:4], [0, 90, 180, 270]), MaskedSet(views[4:], [0, 90])])
    assert [depth_map.shape for depth_map in first + second] == [view.shape[:2] for view in views]
    processor = DPTImageProcessor(
        size={"height": 56, "width": 56},
        do_resize=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    with torch.inference_mode():
        for view, near in zip(views, first + second, strict=True):
            expected = reference(**processor(view[..., :3], return_tensors="pt")).predicted_depth[0].numpy()
            assert np.allclose(near, expected, atol=1e-4)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "gapray-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model("gapray-tiny")
    save_file(model.state_dict(), folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


def test_clip_uses_the_activation_that_openai_trained_with(tiny_clip):
    clip = OpenClip(tiny_clip, device="cpu", batch=2, architecture="gapray-tiny")
    activations = {type(module).__name__ for module in clip.model.visual.modules() if "GELU" in type(module).__name__}
    assert activations == {"QuickGELU"}


def test_clip_features_have_length_one_and_ignore_the_backdrop(tiny_clip):
    clip = OpenClip(tiny_clip, device="cpu", batch=2, architecture="gapray-tiny")
    views = [rgba(seed=seed) for seed in range(3)] + [rgba(size=84)]
    features = clip.predict(views)
    assert features.shape == (4, 512)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    other = views[0].copy()
    other[other[..., 3] == 0, :3] = 7
    moved = np.roll(views[0], 6, axis=1)
    assert np.allclose(clip.predict([other])[0], features[0], atol=1e-6)
    assert features[0] @ clip.predict([moved])[0] > 0.999


def test_a_malicious_pickle_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(Exception, match=r"(?i)weights|pickle"):
        OpenClip(tmp_path / "evil.pt", device="cpu", batch=1)
    assert not (tmp_path / "ran").exists()


def test_colour_gradient_describes_the_product_not_the_backdrop():
    model = ColourGradient()
    view = rgba(size=112)
    other = view.copy()
    other[other[..., 3] == 0, :3] = 3
    features = model.predict([view, other, rgba(size=112, seed=5)])
    assert features.shape == (3, 512)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert features[0] @ features[1] > 0.97
    assert features[0] @ features[2] < 0.9
    empty = np.dstack([photo(0), np.zeros((96, 96), np.uint8)])
    assert np.isfinite(model.predict([empty])).all()


def test_mask_square_holds_the_mask():
    mask = np.zeros((100, 60), np.uint8)
    mask[20:80, 10:30] = 255
    assert mask_square(mask) == pytest.approx((20, 50, 66))


def test_rembg_session_reads_our_file(classic_weights, samples):
    import cv2

    picture = cv2.imread(str(samples / "captures" / "mug" / "mug_000.jpg"))[..., ::-1]
    truth = cv2.imread(str(samples / "truth" / "mug" / "mask_000.png"), 0) > 127
    [mask] = RembgMask("u2netp", classic_weights, threads=2, device="cpu").predict([np.ascontiguousarray(picture)])
    assert mask.shape == truth.shape
    found = mask >= 128
    assert (found & truth).sum() / (found | truth).sum() > 0.97


@pytest.mark.parametrize("size", [(96, 96), (100, 150), (333, 222)])
def test_canny_comes_at_the_view_s_own_size(size):
    picture = np.full((*size, 3), 240, np.uint8)
    picture[size[0] // 4 : -size[0] // 4, size[1] // 4 : -size[1] // 4] = 10
    edges = CannyEdges(100, 200).predict(picture)
    assert edges.shape == size
    assert set(np.unique(edges)) == {0, 255}
    rows = np.flatnonzero(edges.any(1))
    assert abs(rows[0] - size[0] // 4) <= 3


def test_the_whole_of_controlnet_aux_can_still_be_imported():
    import sys

    CannyEdges(100, 200)
    assert "controlnet_aux" not in sys.modules


def test_hull_depth_goes_set_by_set():
    views = [rgba(size=56)] * 4
    a, b = HullDepth(10.0).predict([MaskedSet(views, [0, 90, 180, 270])] * 2)
    assert all(np.array_equal(first, second) for first, second in zip(a, b, strict=True))


def test_equal_shapes_loses_nothing():
    views = [np.zeros((size, 4, 4), np.uint8) for size in (1, 2, 1, 1, 2, 1)]
    batches = list(equal_shapes(views, 2))
    assert sorted(sum(batches, [])) == [0, 1, 2, 3, 4, 5]
    assert all(len({views[i].shape for i in batch}) == 1 and len(batch) <= 2 for batch in batches)
