"""Prompts of any length for SDXL's two text encoders, in windows of 75 tokens."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionXLControlNetPipeline
from torch import Tensor

WINDOW = 75
"""Tokens between the two marks that begin and end what CLIP reads."""


@torch.no_grad()
def encoded(pipe: StableDiffusionXLControlNetPipeline, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Encode texts to one length.

    A text of up to 75 tokens gives what diffusers' `encode_prompt` gives; longer ones are read window by window, and their
    states laid end to end. The pooled vector is that of the first window.

    Args:
        pipe: Tokenizers and encoders.
        texts: At least one.

    Returns:
        States [len(texts), 77 * windows, D], and pooled vectors [len(texts), P].
    """
    pairs = [(pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)]
    tokens = [[_tokens(tokenizer, text) for text in texts] for tokenizer, _ in pairs]
    windows = max(1, *(-(-len(one) // WINDOW) for each in tokens for one in each))
    states, pooled = [], None
    for (tokenizer, encoder), each in zip(pairs, tokens, strict=True):
        rows = torch.tensor([_windowed(tokenizer, one, windows) for one in each], device=encoder.device)
        out = encoder(rows.flatten(0, 1), output_hidden_states=True)
        # SDXL reads the last layer but one.
        states.append(out.hidden_states[-2].unflatten(0, (len(texts), windows)).flatten(1, 2))
        pooled = out[0].unflatten(0, (len(texts), windows))[:, 0]  # the second encoder's stays
    assert pooled is not None
    return torch.cat(states, -1), pooled


def _tokens(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, truncation=False).input_ids
    return ids


def _windowed(tokenizer: Any, ids: list[int], windows: int) -> list[list[int]]:
    found = []
    for index in range(windows):
        part = ids[index * WINDOW : (index + 1) * WINDOW]
        padding = [tokenizer.pad_token_id] * (WINDOW - len(part))
        found.append([tokenizer.bos_token_id, *part, tokenizer.eos_token_id, *padding])
    return found
