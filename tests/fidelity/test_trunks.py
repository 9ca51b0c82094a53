import pickle

import numpy as np
import pytest
import torch

from gapray.errors import ModelError
from gapray.fidelity import trunks
from gapray.fidelity.trunks import FLAX_LAYERS, KNOWN, checked, load_backbone, tensors_sha256


def flax(net="alex"):
    rng = np.random.default_rng(0)
    layers = {
        f"Conv_{number}": {"kernel": rng.random((3, 3, 2, 4), np.float32), "bias": rng.random(4, np.float32)}
        for number in range(len(FLAX_LAYERS[net]))
    }
    return {"AlexNet_0": layers, "NetLinLayer_0": {"Conv_0": {"kernel": np.ones(1, np.float32)}}}


def test_both_formats_give_the_same_network(tmp_path):
    tree = flax()
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(tree))
    first = trunks.READERS[".ckpt"](tmp_path / "a.ckpt", "alex")
    state = {
        f"features.{index}.{part}": torch.from_numpy(
            np.ascontiguousarray(tree["AlexNet_0"][f"Conv_{number}"]["kernel"].transpose(3, 2, 0, 1))
            if part == "weight"
            else tree["AlexNet_0"][f"Conv_{number}"]["bias"]
        )
        for number, index in enumerate(FLAX_LAYERS["alex"])
        for part in ("weight", "bias")
    }
    torch.save(state | {"classifier.1.weight": torch.ones(2)}, tmp_path / "a.pth")
    second = trunks.READERS[".pth"](tmp_path / "a.pth", "alex")
    assert tensors_sha256(first) == tensors_sha256(second)
    with pytest.raises(ModelError) as error:
        checked("alex", first)
    assert error.value.code == "model.hash_mismatch"


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), pickle.dumps({"AlexNet_0": {}}), b"", b"\x80\x05junk"])
def test_an_invalid_checkpoint_is_refused(tmp_path, content, capsys):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ModelError) as error:
        trunks.READERS[".ckpt"](tmp_path / "a.ckpt", "alex")
    assert error.value.code == "model.wrong_part"
    assert capsys.readouterr().out == ""


def test_a_wrong_backbone_gives_no_score(tmp_path, monkeypatch):
    (tmp_path / "alexnet_features.pth").write_bytes(b"something else")
    (tmp_path / "alexnet.ckpt").write_bytes(b"something else")
    monkeypatch.setenv("GAPRAY_MODELS", str(tmp_path))
    monkeypatch.setenv("GAPRAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError) as error:
        load_backbone("alex")
    assert error.value.code == "model.hash_mismatch"


def test_the_real_backbone_passes_its_self_test(lpips_alex):
    assert lpips_alex.backbone.sha256 == KNOWN["alex"].sha256
