"""Loading parts of diffusion pipelines from model cards. An unsuitable part is an error, never a silent fallback."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPTokenizer, CLIPVisionModelWithProjection

from gapray.errors import ModelError
from gapray.models.cards import card_named
from gapray.models.store import LocatedCard, locate


def load_image_adapter(pipe: Any, located: LocatedCard) -> None:
    """Load an IP-Adapter into a pipeline's UNet.

    Raises:
        ModelError: `model.wrong_part`.
    """
    [path] = [file for name, file in located.files.items() if name.startswith("ip-adapter")]
    try:
        flat = load_file(path)
        state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for key, value in flat.items():
            group, _, rest = key.partition(".")
            state[group][rest] = value
        pipe.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None)
        if not any(isinstance(layer, IPAdapterAttnProcessor2_0) for layer in pipe.unet.attn_processors.values()):
            raise ValueError("no layer took its weights")
    except Exception as error:
        raise wrong_part(located, error) from error


def located_as(name: str, role: str) -> LocatedCard:
    """The files of a card that must have a given role.

    Raises:
        ModelError: `model.wrong_part` for a card of another role, or what `gapray.models.store.locate` raises.
    """
    card = card_named(name)
    if card.role != role:
        raise ModelError("model.wrong_part", f"{name} is a {card.role} card, and {role} is needed here")
    return locate(card)


@contextmanager
def folder_of(located: LocatedCard) -> Iterator[Path]:
    """Yield a folder of links in the layout that `from_pretrained` reads; a card's files may be in different folders."""
    with tempfile.TemporaryDirectory() as name:
        for file, path in located.files.items():
            link = Path(name) / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
        yield Path(name)


def part_of(located: LocatedCard, load: Any, folder: Path, **options: Any) -> Any:
    """Load a part from a folder.

    Args:
        located: The part's card, for error messages.
        load: A `from_pretrained` method.
        folder: The folder to load from.
        options: Further arguments of `load`.

    Raises:
        ModelError: `model.wrong_part`.
    """
    try:
        return load(str(folder), local_files_only=True, **options)
    except Exception as error:
        raise wrong_part(located, error) from error


def tokenizer_of(located: LocatedCard, folder: Path, *, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:  # noqa: S107
    """Load CLIP's tokenizer from `vocab.json` and `merges.txt`.

    Args:
        located: The tokenizer's card, for error messages.
        folder: Folder of the two files.
        pad_token: Padding token; ``!`` for SDXL's second encoder, by default the end-of-text token.

    Raises:
        ModelError: `model.wrong_part`.
    """
    try:
        vocabulary = json.loads((folder / "vocab.json").read_text())
        lines = (folder / "merges.txt").read_text().splitlines()
        pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#")]
        return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=77, pad_token=pad_token)
    except Exception as error:
        raise wrong_part(located, error) from error


def feature_extractor_of(encoder: CLIPVisionModelWithProjection | None) -> CLIPImageProcessor:
    """The image processor for an encoder's input size; 224 pixels as in CLIP without an encoder."""
    side = encoder.config.image_size if encoder is not None else 224
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def wrong_part(located: LocatedCard, error: Exception) -> ModelError:
    """The error for a card whose files cannot be loaded as the part that they should be."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelError("model.wrong_part", f"{located.card.name} could not be loaded: {type(error).__name__}: {first}")


def fuse_self_attention(module: nn.Module) -> None:
    """Compute query, key and value of every self-attention in one multiplication, with equal results."""
    for name, layer in module.named_modules():
        if isinstance(layer, Attention) and (name.endswith("attn1") or "motion_modules" in name):
            layer.fuse_projections(fuse=True)
