import numpy as np
import pytest

from gapray.errors import ModelError
from gapray.fidelity.lpips import Lpips
from tests.conftest import SHARED, need


@pytest.fixture(scope="module")
def metric():
    folder = SHARED / "weights"
    need("lpips-trunk", (folder / "alexnet_features.pth").exists(), "the LPIPS trunk is not on this machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAPRAY_MODELS", str(folder))
        return Lpips()


def test_known_answers(metric):
    rng = np.random.default_rng(0)
    image = np.clip(rng.normal(128, 40, (1, 128, 128, 3)), 0, 255).astype(np.uint8)
    noisy = np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
    other = rng.integers(0, 256, image.shape, dtype=np.uint8)
    flat = np.full_like(image, 128)
    assert metric.distance(image, image)[0] == pytest.approx(0, abs=1e-6)
    near, far = metric.distance(image, noisy)[0], metric.distance(image, flat)[0]
    assert 0 < near < 0.05 < far
    both = metric.distance(np.concatenate([image, image]), np.concatenate([noisy, other]))
    assert both[0] == pytest.approx(near, abs=1e-5) and both[1] > near


def test_no_number_without_the_right_trunk(tmp_path, monkeypatch):
    (tmp_path / "alexnet_features.pth").write_bytes(b"something else")
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path))
    monkeypatch.setenv("GAPRAY_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError) as error:
        Lpips()
    assert error.value.code == "model.hash_mismatch"
