"""The denoising loop over diffusers' modules.

With every refinement off, a clip goes through exactly the arithmetic of diffusers' `AnimateDiffControlNetPipeline`. What
does not change between steps (image tokens, keys and values of prompts and images, the ControlNet's embedding of the depth)
is computed once for each clip, and ControlNet is skipped after its last step. Several clips can be drawn at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import AnimateDiffControlNetPipeline, ControlNetModel
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
)
from torch import Tensor, nn

from gapray.models.diffusers_parts import fuse_self_attention
from gapray.video.animatediff.attention import (
    KeyFrameAttention,
    TextAttention,
    ViewBlendAttention,
    text_of,
    views_of,
)
from gapray.video.animatediff.settings import AnimateDiffSettings

ROLL_FRACTION = 0.381966
"""Each step rolls the position code by this fraction of the frames (golden section: successive seams are far apart)."""


@dataclass(frozen=True)
class Clip:
    """The inputs of one orbit's frames. F frames, V views; latents are [4, F, h, w]."""

    controls: tuple[Tensor, ...]
    """[F, 3, H, W] for each ControlNet, 0 … 1."""
    tokens: Tensor | None
    """[V, T, D] image tokens; None without an image adapter."""
    weights: Tensor
    """[F, V], rows sum to 1."""
    noise: Tensor
    """[4, F, h, w]."""
    start: Tensor | None
    """Latents [4, F, h, w] that denoising starts from at partial strength; None = pure noise."""
    known: Tensor | None
    """Latents [4, F, h, w] of the key frames; other frames are ignored."""
    key_frames: tuple[int, ...]


class AnimateDiffEngine:
    """Prepares a pipeline's modules and runs the loop.

    Args:
        pipe: Modules with or without an image adapter; it is modified and must not be used elsewhere afterwards.
        settings: Which refinements are on.
    """

    def __init__(self, pipe: AnimateDiffControlNetPipeline, settings: AnimateDiffSettings) -> None:
        self.pipe, self.settings = pipe, settings
        self.unet, self.scheduler = pipe.unet, pipe.scheduler
        nets = getattr(pipe.controlnet, "nets", [pipe.controlnet])
        self.controlnets: list[ControlNetModel] = list(nets)
        self.device, self.dtype = pipe.unet.device, pipe.unet.dtype
        # The projection runs once for each clip, in `image_tokens`; inside the UNet it would run in every step.
        self.projection, pipe.unet.encoder_hid_proj = pipe.unet.encoder_hid_proj, None
        self.embedders = [net.controlnet_cond_embedding for net in self.controlnets]
        for net in self.controlnets:
            net.controlnet_cond_embedding = nn.Identity()
        self.cross, self.shared = self._install()
        self._positions = [
            module for module in self.unet.modules() if type(module).__name__ == "SinusoidalPositionalEmbedding"
        ]
        self._plain_positions = [module.pe.clone() for module in self._positions]
        self._unet: Callable[..., Any] = self.unet.forward
        self._nets: list[Callable[..., Any]] = [net.forward for net in self.controlnets]
        if settings.compile:
            self._unet = torch.compile(self.unet.forward, dynamic=False)
            self._nets = [torch.compile(net.forward, dynamic=False) for net in self.controlnets]
            # Convolutions run faster in channels-last; the decoder consists of convolutions.
            pipe.vae.decoder.to(memory_format=torch.channels_last)
            pipe.vae.decoder.forward = torch.compile(pipe.vae.decoder.forward, dynamic=False)

    def _install(self) -> tuple[list[tuple[Attention, Any]], list[tuple[Attention, KeyFrameAttention]]]:
        """Install our processor in every attention layer; returns the cross-attentions and the UNet's self-attentions."""
        cross: list[tuple[Attention, Any]] = []
        shared: list[tuple[Attention, KeyFrameAttention]] = []
        for network in (self.unet, *self.controlnets):
            fuse_self_attention(network)
            for name, layer in network.named_modules():
                if not isinstance(layer, Attention):
                    continue
                if "motion_modules" in name:
                    layer.set_processor(FusedAttnProcessor2_0())
                elif name.endswith("attn2"):
                    if isinstance(layer.processor, IPAdapterAttnProcessor2_0):
                        layer.processor.__class__ = ViewBlendAttention
                    elif isinstance(layer.processor, AttnProcessor2_0):
                        layer.set_processor(TextAttention())
                    cross.append((layer, layer.processor))
                elif name.endswith("attn1"):
                    processor = KeyFrameAttention(self.settings.shared_gain)
                    layer.set_processor(processor)
                    if network is self.unet:
                        shared.append((layer, processor))
        return cross, shared

    @property
    def guided(self) -> bool:
        """Whether every step runs twice, with and without the prompt (classifier-free guidance)."""
        return self.settings.guidance > 1

    @torch.no_grad()
    def image_tokens(self, embeds: Tensor) -> Tensor:
        """Project image embeddings [V, ...] from the image encoder to tokens [V, T, D]."""
        assert self.projection is not None
        tokens: Tensor = self.projection([embeds[None].to(self.device, self.dtype)])[0][0]
        return tokens

    @torch.no_grad()
    def denoise(
        self,
        clips: Sequence[Clip],
        prompts: Tensor,
        blank: Tensor | None,
        *,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Run the loop.

        Args:
            clips: At least one, all of one shape.
            prompts: [G, tokens, D] text embeddings: negative and positive with guidance, else positive.
            blank: [1, T, D] image tokens of no image; None without an image adapter.
            on_step: Called with the number of steps done and in total.

        Returns:
            Latents [C, 4, F, h, w].
        """
        settings = self.settings
        self._prepare(clips, prompts.to(self.device, self.dtype), blank)
        controls = self._controls(clips)
        noise = torch.stack([clip.noise for clip in clips]).to(self.device, self.dtype)
        self.scheduler.set_timesteps(settings.steps, device=self.device)
        times = self._times()
        latents = self._begin(clips, noise, times)
        known = self._known(clips)
        frames = noise.shape[2]
        for step, time in enumerate(times):
            self._roll(frames, step)
            # As in diffusers: a net stops with the first step that ends after its fraction of the steps.
            control = controls if (step + 1) / len(times) <= settings.control_end else None
            with self._keys_near(latents, step, len(times)):
                predicted = self._predict(latents, time, prompts.shape[0], control)
            latents = self.scheduler.step(predicted, time, latents, return_dict=False)[0]
            if known is not None:
                later = times[step + 1] if step + 1 < len(times) else None
                latents = self._held(latents, known, noise, clips[0].key_frames, later, self._hold(step, len(times)))
            if on_step:
                on_step(step + 1, len(times))
        return latents

    def _prepare(self, clips: Sequence[Clip], prompts: Tensor, blank: Tensor | None) -> None:
        weights = torch.stack([clip.weights for clip in clips]).to(self.device)
        for layer, processor in self.cross:
            processor.text = text_of(layer, prompts)
            if isinstance(processor, ViewBlendAttention):
                tokens = torch.stack([cast("Tensor", clip.tokens) for clip in clips]).to(self.device, self.dtype)
                assert blank is not None
                processor.views = views_of(layer, processor, tokens, blank.to(tokens), weights, self.settings.ip_scale)
        neighbours = _key_neighbours(clips[0].key_frames, weights.shape[1], self.device)
        side = clips[0].noise.shape[-1]
        for layer, processor in self.shared:
            below = self._side_of(layer, side) <= self.settings.shared_below
            processor.neighbours = neighbours if self.settings.shared_keys and below else None

    def _side_of(self, layer: Attention, side: int) -> int:
        """Side of the latent at a self-attention layer, found from its width: each level of the UNet has its own."""
        widths = list(self.unet.config["block_out_channels"])
        return side >> widths.index(layer.query_dim)

    def _controls(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Each ControlNet's embedding of its pictures, [G * C * F, c, h, w]."""
        embedded = []
        for index, embed in enumerate(self.embedders):
            pictures = torch.cat([clip.controls[index] for clip in clips]).to(self.device, self.dtype)
            embedded.append(embed(pictures).repeat(2 if self.guided else 1, 1, 1, 1))
        return embedded

    def _times(self) -> Tensor:
        """Time steps to run: all, or the last ones at partial strength (like diffusers' video-to-video `get_timesteps`)."""
        times: Tensor = self.scheduler.timesteps
        if self.settings.start == "noise":
            return times
        first = max(
            self.settings.steps - min(int(self.settings.steps * self.settings.strength), self.settings.steps), 0
        )
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(first * self.scheduler.order)
        return times[first * self.scheduler.order :]

    def _begin(self, clips: Sequence[Clip], noise: Tensor, times: Tensor) -> Tensor:
        if self.settings.start == "noise" or clips[0].start is None:
            return cast("Tensor", noise * self.scheduler.init_noise_sigma)
        start = torch.stack([cast("Tensor", clip.start) for clip in clips]).to(noise)
        return cast("Tensor", self.scheduler.add_noise(start, noise, times[:1]))

    def _known(self, clips: Sequence[Clip]) -> Tensor | None:
        if not self.settings.key_frames or clips[0].known is None or not clips[0].key_frames:
            return None
        return torch.stack([cast("Tensor", clip.known) for clip in clips]).to(self.device, self.dtype)

    def _predict(self, latents: Tensor, time: Tensor, groups: int, control: list[Tensor] | None) -> Tensor:
        rows = self.scheduler.scale_model_input(torch.cat([latents] * groups), time)
        frames = rows.transpose(1, 2).flatten(0, 1)
        unused = torch.zeros(1, 1, 1, device=self.device, dtype=self.dtype)  # our processors hold the conditions
        down: tuple[Tensor, ...] | None = None
        middle: Tensor | None = None
        for index, picture in enumerate(control or ()):
            scales = self.settings.control_scale
            more_down, more_middle = self._nets[index](
                frames,
                time,
                encoder_hidden_states=unused,
                controlnet_cond=picture,
                conditioning_scale=scales[min(index, len(scales) - 1)],
                return_dict=False,
            )
            down = tuple(a + b for a, b in zip(down, more_down, strict=True)) if down else tuple(more_down)
            middle = more_middle if middle is None else middle + more_middle
        predicted = self._unet(
            rows,
            time,
            encoder_hidden_states=unused,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        if not self.guided:
            return cast("Tensor", predicted)
        without, with_prompt = predicted.chunk(2)
        return cast("Tensor", without + self.settings.guidance * (with_prompt - without))

    def _hold(self, step: int, steps: int) -> float:
        """How firmly key frames are held after this step: 1, fading to 0 over the last `release` of the steps."""
        released = round(self.settings.release * steps)
        left = steps - 1 - step
        return 1.0 if released == 0 else min(1.0, left / released)

    def _held(
        self, latents: Tensor, known: Tensor, noise: Tensor, keys: tuple[int, ...], later: Tensor | None, hold: float
    ) -> Tensor:
        """Replace the key frames by their photos, noised to the next step's level (RePaint without resampling)."""
        chosen = list(keys)
        target = known[:, :, chosen]
        if later is not None:
            target = self.scheduler.add_noise(target, noise[:, :, chosen], later[None])
        latents = latents.clone()
        latents[:, :, chosen] = torch.lerp(latents[:, :, chosen], target.to(latents), hold)
        return latents

    def _roll(self, frames: int, step: int) -> None:
        """Roll the motion modules' position code, so that no frame is the first one and the last joins the first."""
        shift = math.floor(step * ROLL_FRACTION * frames) % frames if self.settings.roll else 0
        for module, plain in zip(self._positions, self._plain_positions, strict=True):
            module.pe[:, :frames].copy_(plain[:, :frames].roll(-shift, 1))

    @contextmanager
    def _keys_near(self, latents: Tensor, step: int, steps: int) -> Iterator[None]:
        """Disable shared keys in steps in which the key frames are no longer held: the keys would be wrong."""
        del latents
        if self.settings.key_frames and step and self._hold(step - 1, steps) < 1:
            kept = [processor.neighbours for _, processor in self.shared]
            for _, processor in self.shared:
                processor.neighbours = None
            yield
            for (_, processor), neighbours in zip(self.shared, kept, strict=True):
                processor.neighbours = neighbours
        else:
            yield


def _key_neighbours(keys: tuple[int, ...], frames: int, device: torch.device) -> Tensor | None:
    """int64 [F, 2]: the key frame at or before each frame, and the one after it, around the circle; None without key frames."""
    if not keys:
        return None
    before = [max((place for place, key in enumerate(keys) if key <= frame), default=-1) for frame in range(frames)]
    return torch.tensor([[keys[place], keys[(place + 1) % len(keys)]] for place in before], device=device)
