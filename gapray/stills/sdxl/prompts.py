"""Encode prompts of any length with SDXL's two text encoders, in windows of 75 tokens."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import StableDiffusionXLControlNetPipeline
from torch import Tensor

WINDOW = 75
"""Tokens between the start and end tokens of a CLIP window."""


@torch.no_grad()
def encoded(pipe: StableDiffusionXLControlNetPipeline, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Encode texts to one length.

    A text of up to 75 tokens gives the same result as diffusers' `encode_prompt`; longer ones are encoded window by window
    and their hidden states concatenated. The pooled vector is that of the first window.

    Args:
        pipe: Provides tokenizers and encoders.
        texts: At least one.

    Returns:
        Hidden states [len(texts), 77 * windows, D], and pooled vectors [len(texts), P].
    """
    pairs = [(pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)]
    tokens = [[_tokens(tokenizer, text) for text in texts] for tokenizer, _ in pairs]
    windows = max(1, *(-(-len(ids) // WINDOW) for encoded_texts in tokens for ids in encoded_texts))
    states, pooled = [], None
    for (tokenizer, encoder), encoded_texts in zip(pairs, tokens, strict=True):
        rows = torch.tensor([_windowed(tokenizer, ids, windows) for ids in encoded_texts], device=encoder.device)
        out = encoder(rows.flatten(0, 1), output_hidden_states=True)
        # SDXL uses the last layer but one.
        states.append(out.hidden_states[-2].unflatten(0, (len(texts), windows)).flatten(1, 2))
        pooled = out[0].unflatten(0, (len(texts), windows))[:, 0]  # the second encoder's is kept
    assert pooled is not None
    return torch.cat(states, -1), pooled


def _tokens(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, truncation=False).input_ids
    return ids


def _windowed(tokenizer: Any, ids: list[int], windows: int) -> list[list[int]]:
    """Split token ids into padded windows of 77, with start and end tokens."""
    rows = []
    for index in range(windows):
        part = ids[index * WINDOW : (index + 1) * WINDOW]
        padding = [tokenizer.pad_token_id] * (WINDOW - len(part))
        rows.append([tokenizer.bos_token_id, *part, tokenizer.eos_token_id, *padding])
    return rows
