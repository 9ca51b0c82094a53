"""Attention processors for diffusers' modules: conditions are computed once for each clip, and differ by frame.

Rows of a batch are ordered guidance-major, then clip, then frame: ``[unguided c0f0, c0f1, …, c1f0, …, guided c0f0, …]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass
class PromptKeysValues:
    """Keys and values of the prompts for one layer; G = 2 with guidance, else 1."""

    key: Tensor
    """[G, heads, tokens, d]."""
    value: Tensor
    """[G, heads, tokens, d]."""


@dataclass
class ViewKeysValues:
    """Keys and values of the images that each guided row attends to, and the weight of each image."""

    key: Tensor
    """[N, C * F, heads, tokens, d]: N views for each frame."""
    value: Tensor
    """[N, C * F, heads, tokens, d]."""
    weight: Tensor
    """[N, C * F], scale included."""
    blank_key: Tensor
    """[1, heads, tokens, d], what unguided rows attend to."""
    blank_value: Tensor
    """[1, heads, tokens, d]."""
    blank_weight: Tensor
    """[], the scale."""


def heads_first(x: Tensor, heads: int) -> Tensor:
    """[B, L, heads * d] -> [B, heads, L, d]."""
    return x.view(x.shape[0], -1, heads, x.shape[-1] // heads).transpose(1, 2)


class TextAttention:
    """Cross-attention to prompts whose keys and values were projected once for all rows and steps."""

    text: PromptKeysValues | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute diffusers' `AttnProcessor2_0`, with the prompts taken from `text`."""
        del encoder_hidden_states, attention_mask, temb
        assert self.text is not None
        return _joined(attn, _to_prompts(_queries(attn, hidden_states), self.text), hidden_states)


class ViewBlendAttention(IPAdapterAttnProcessor2_0):  # type: ignore[misc]  # diffusers is not typed
    """IP-Adapter cross-attention in which every frame attends to its own views: sum_v w[f, v] * Attn(q, K_v, V_v).

    diffusers repeats one image embedding over all frames (`unet_motion_model.py`, ``repeat_interleave(num_frames)``). Its
    `ip_adapter_masks` of shape [2F, V, H, W] compute the same sum and are this class's reference in tests. A loaded
    `IPAdapterAttnProcessor2_0` is converted by ``processor.__class__ = ViewBlendAttention``, which keeps its weights.
    """

    text: PromptKeysValues | None = None
    views: ViewKeysValues | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        scale: float = 1.0,
        ip_adapter_masks: Tensor | None = None,
    ) -> Tensor:
        """Compute `IPAdapterAttnProcessor2_0`, with prompts and images taken from `text` and `views`."""
        del encoder_hidden_states, attention_mask, temb, scale, ip_adapter_masks
        assert self.text is not None and self.views is not None
        views = self.views
        query = _queries(attn, hidden_states)
        out = _to_prompts(query, self.text)
        guided = query[-views.weight.shape[1] :]
        seen = torch.zeros_like(guided)
        for key, value, weight in zip(views.key, views.value, views.weight, strict=True):
            seen = seen + weight[:, None, None, None] * scaled_dot_product_attention(guided, key, value)
        if len(query) > len(guided):
            blank = _folded(query[: len(guided)], views.blank_key, views.blank_value) * views.blank_weight
            seen = torch.cat([blank, seen])
        return _joined(attn, out + seen, hidden_states)


class KeyFrameAttention:
    """Self-attention in which a frame also attends to the two nearest key frames of its clip.

    This is reference-only control without a second network pass; it is valid while the key frames' latents are the noised
    photos. The gain weighs the key frames' keys against a frame's own (as a bias of its logarithm): towards 0 it becomes
    plain self-attention.
    """

    def __init__(self, gain: float) -> None:
        self.gain = gain
        self.neighbours: Tensor | None = None
        """int64 [F, 2]: the key frames before and after each frame."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute diffusers' `AttnProcessor2_0`, with keys and values extended by those of the key frames."""
        del encoder_hidden_states, attention_mask, temb
        query, key, value = _projected(attn, hidden_states)
        bias = None
        if self.neighbours is not None:
            tokens = hidden_states.shape[1]
            key, value = self._with_key_frames(key), self._with_key_frames(value)
            if self.gain != 1:
                bias = torch.zeros(1, 3 * tokens, device=key.device, dtype=key.dtype)
                bias[:, tokens:] = math.log(self.gain)
        query, key, value = (heads_first(x, attn.heads) for x in (query, key, value))
        return _joined(attn, scaled_dot_product_attention(query, key, value, attn_mask=bias), hidden_states)

    def _with_key_frames(self, x: Tensor) -> Tensor:
        """[R, L, C] -> [R, 3L, C]: a frame's own tokens, then those of the two key frames."""
        assert self.neighbours is not None
        frames = len(self.neighbours)
        rows, tokens, width = x.shape
        chosen = x.view(rows // frames, frames, tokens, width)[:, self.neighbours]
        return torch.cat([x, chosen.reshape(rows, 2 * tokens, width)], 1)


def text_of(attn: Attention, embeddings: Tensor) -> PromptKeysValues:
    """Project prompt embeddings [G, tokens, D] for one layer."""
    return PromptKeysValues(
        heads_first(attn.to_k(embeddings), attn.heads), heads_first(attn.to_v(embeddings), attn.heads)
    )


def views_of(
    attn: Attention,
    processor: IPAdapterAttnProcessor2_0,
    tokens: Tensor,
    blank: Tensor,
    weights: Tensor,
    scale: float,
) -> ViewKeysValues:
    """Project image tokens for one layer.

    Args:
        attn: The layer.
        processor: Its processor, which holds the image projections.
        tokens: [C, V, T, D], the tokens of each clip's views.
        blank: [1, T, D], the tokens of no image.
        weights: [C, F, V], rows sum to 1.
        scale: Scale of the image adapter.
    """
    to_key, to_value = processor.to_k_ip[0], processor.to_v_ip[0]
    clips, views, count, _ = tokens.shape
    flat = tokens.flatten(0, 1)
    key, value = heads_first(to_key(flat), attn.heads), heads_first(to_value(flat), attn.heads)
    # Only views with weight are computed: at most two for frames between captured angles, one where every frame has one.
    used = int((weights > 0).sum(-1).max())
    best = weights.topk(used, -1)
    index = (best.indices + torch.arange(clips, device=weights.device)[:, None, None] * views).flatten(0, 1).T
    del count
    return ViewKeysValues(
        key=key[index],
        value=value[index],
        weight=(best.values.flatten(0, 1).T * scale).to(tokens.dtype).contiguous(),
        blank_key=heads_first(to_key(blank), attn.heads),
        blank_value=heads_first(to_value(blank), attn.heads),
        blank_weight=torch.tensor(scale, dtype=tokens.dtype, device=tokens.device),
    )


def _queries(attn: Attention, hidden_states: Tensor) -> Tensor:
    """[R, L, C] -> [R, heads, L, d]."""
    return heads_first(attn.to_q(hidden_states), attn.heads)


def _projected(attn: Attention, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if getattr(attn, "fused_projections", False):
        query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        return query, key, value
    return attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)


def _to_prompts(query: Tensor, text: PromptKeysValues) -> Tensor:
    """Attention of queries [R, heads, L, d] to prompts that R / G rows share."""
    return _folded(query, text.key, text.value)


def _folded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of R rows to G sets of keys: rows of one set are concatenated instead of copying the keys R / G times."""
    groups = key.shape[0]
    rows, heads, tokens, width = query.shape
    long = query.view(groups, rows // groups, heads, tokens, width).transpose(1, 2).reshape(groups, heads, -1, width)
    out = scaled_dot_product_attention(long, key, value)
    return out.view(groups, heads, rows // groups, tokens, width).transpose(1, 2).reshape(rows, heads, tokens, width)


def _joined(attn: Attention, out: Tensor, hidden_states: Tensor) -> Tensor:
    out = out.transpose(1, 2).reshape(hidden_states.shape[0], -1, out.shape[1] * out.shape[-1])
    result: Tensor = attn.to_out[1](attn.to_out[0](out))
    if attn.residual_connection:
        result = result + hidden_states
    scaled: Tensor = result / attn.rescale_output_factor
    return scaled
