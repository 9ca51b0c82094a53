import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from gapray.capture.decode import decode_photo
from gapray.errors import ModelError
from gapray.fidelity.lpips import Lpips
from gapray.fidelity.trunks import Backbone, load_backbone
from tests.conftest import need

ANSWERS = json.loads((Path(__file__).parent / "known_answers.json").read_text())


def photo(samples, name):
    return cv2.resize(decode_photo((samples / name).read_bytes()), (256, 256), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_known_values(samples, net, lpips_alex):
    if net == "vgg":
        try:
            metric = Lpips("vgg")
        except ModelError as error:
            need("vgg", False, error.message)
    else:
        metric = lpips_alex
    for first, second, answer in ANSWERS[net]:
        found = metric.distance(photo(samples, first)[None], photo(samples, second)[None])[0]
        assert found == pytest.approx(answer, abs=2e-3), (first, second)


def test_larger_changes_score_higher(samples, lpips_alex):
    image = photo(samples, "captures/mug/mug_000.jpg")
    rng = np.random.default_rng(0)
    noisy = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    blurred = cv2.blur(image, (7, 7))
    other = photo(samples, "captures/supplement/supplement_000.jpg")
    found = lpips_alex.distance(np.repeat(image[None], 4, 0), np.stack([image, noisy, blurred, other]))
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert list(found) == sorted(found) and len(set(found.round(3))) == 4


def test_all_pairs_equals_pair_by_pair(lpips_alex):
    rng = np.random.default_rng(1)
    images, truths = (rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8) for count in (3, 5))
    table = lpips_alex.all_pairs(images, truths)
    for column in range(5):
        assert table[:, column] == pytest.approx(
            lpips_alex.distance(images, np.repeat(truths[column][None], 3, 0)), abs=1e-5
        )


def test_batch_size_does_not_change_the_result(lpips_alex):
    rng = np.random.default_rng(2)
    images, truths = (rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8) for _ in range(2))
    assert lpips_alex.distance(images, truths, batch=2) == pytest.approx(lpips_alex.distance(images, truths), abs=1e-6)
    assert lpips_alex.distance(images[:0], truths[:0]).shape == (0,)


def test_a_random_backbone_fails_the_self_test(lpips_alex):
    del lpips_alex
    real = load_backbone("alex")
    torch.manual_seed(0)
    random = {name: torch.randn_like(value) * value.std() for name, value in real.state.items()}
    with pytest.raises(ModelError) as error:
        Lpips("alex", backbone=Backbone("alex", random, real.sha256))
    assert error.value.code == "model.failed"
