"""The denoising loop: several pictures at once, conditions computed once, ControlNets left out where they count nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import StableDiffusionXLControlNetPipeline
from diffusers.models.attention_processor import Attention, FusedAttnProcessor2_0
from torch import Tensor, nn

from gapray.config import SdxlSettings
from gapray.models.diffusers_parts import fuse_self_attention


@dataclass(frozen=True)
class Picture:
    """Everything that one picture is drawn from; all pictures of a batch have one shape."""

    prompts: Tensor
    """[G, tokens, D]: negative and positive with guidance, else positive."""
    pooled: Tensor
    """[G, P]."""
    controls: Sequence[Tensor]
    """One a ControlNet, float32 [3, H, W], 0 … 1."""
    tokens: Tensor | None
    """[G, N, T, D] of the image adapter: no image and N views with guidance, else the views."""
    mask: Tensor | None
    """float32 [H, W], 0 … 1, where the adapter acts; None = everywhere."""
    noise: Tensor
    """[4, h, w]."""
    known: Tensor | None = None
    """[4, h, w]: latents of the photo, where it is kept."""
    keep: Tensor | None = None
    """[h, w], 0 … 1: how much of `known` is kept."""


class Engine:
    """Runs the loop.

    Args:
        pipe: Modules with an image adapter loaded or not; it is changed and serves this engine alone from then on.
    """

    def __init__(self, pipe: StableDiffusionXLControlNetPipeline) -> None:
        self.pipe = pipe
        self.unet, self.scheduler = pipe.unet, pipe.scheduler
        self.nets = list(getattr(pipe.controlnet, "nets", [pipe.controlnet]))
        self.device, self.dtype = pipe.unet.device, pipe.unet.dtype
        # What is the same in every step runs once a picture: the adapter's projection, the ControlNets' view of their pictures.
        self.projection = pipe.unet.encoder_hid_proj
        if self.projection is not None:
            pipe.unet.encoder_hid_proj = nn.Identity()
        self.embedders = [net.controlnet_cond_embedding for net in self.nets]
        for net in self.nets:
            net.controlnet_cond_embedding = nn.Identity()
        for network in (self.unet, *self.nets):
            network.to(memory_format=torch.channels_last)
            fuse_self_attention(network)
            for name, layer in network.named_modules():
                if isinstance(layer, Attention) and name.endswith("attn1"):
                    layer.set_processor(FusedAttnProcessor2_0())
        pipe.vae.to(memory_format=torch.channels_last)
        self._unet: Callable[..., Any] = self.unet.forward
        self._controlled: list[Callable[..., Any]] = [net.forward for net in self.nets]

    def compile(self) -> None:
        """UNet and ControlNets through torch.compile, at the first picture of each shape.

        Without CUDA graphs: a step of four pictures keeps an H200 busy for 0.25 s, and they made it no shorter.
        """
        self._unet = torch.compile(self.unet.forward, dynamic=False)
        self._controlled = [torch.compile(net.forward, dynamic=False) for net in self.nets]

    @torch.no_grad()
    def image_tokens(self, embeds: Tensor) -> Tensor:
        """Image embeddings [N, …] as the image encoder makes them -> tokens [N, T, D]."""
        assert self.projection is not None
        tokens: Tensor = self.projection([embeds[None].to(self.device, self.dtype)])[0][0]
        return tokens

    @torch.no_grad()
    def denoise(
        self,
        pictures: Sequence[Picture],
        settings: SdxlSettings,
        *,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Run the loop.

        Args:
            pictures: At least one, all of one shape.
            settings: Steps, and the weight of each condition.
            on_step: Called with steps done and steps in all.

        Returns:
            Latents [B, 4, h, w].
        """
        height, width = (8 * side for side in pictures[0].noise.shape[1:])
        prompts, pooled = (self._rows([getattr(one, name) for one in pictures]) for name in ("prompts", "pooled"))
        # SDXL is told the picture's size, where it was cut from, and the size that is wanted (all [pixels]).
        sizes = torch.tensor([height, width, 0, 0, height, width], device=self.device, dtype=self.dtype)
        told: dict[str, Any] = {"text_embeds": pooled, "time_ids": sizes.repeat(len(pooled), 1)}
        looked = dict(told)
        attention: dict[str, Any] = {}
        if pictures[0].tokens is not None:
            self.pipe.set_ip_adapter_scale(settings.ip_scale)
            looked["image_embeds"] = [self._rows([cast("Tensor", one.tokens) for one in pictures])]
            if pictures[0].mask is not None:
                attention["ip_adapter_masks"] = [self._mask(pictures)]
        controls = self._controls(pictures, 2 if guided(settings) else 1)
        noise = torch.stack([one.noise for one in pictures]).to(self.device, self.dtype)
        self.scheduler.set_timesteps(settings.steps, device=self.device)
        times = self.scheduler.timesteps
        latents = noise * self.scheduler.init_noise_sigma
        for step, time in enumerate(times):
            rows = self.scheduler.scale_model_input(torch.cat([latents] * (2 if guided(settings) else 1)), time)
            rows = rows.contiguous(memory_format=torch.channels_last)
            down, middle = self._residuals(rows, time, prompts, told, controls, settings, (step + 1) / len(times))
            predicted = self._unet(
                rows,
                time,
                encoder_hidden_states=prompts,
                cross_attention_kwargs=attention or None,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                added_cond_kwargs=looked,
                return_dict=False,
            )[0]
            if guided(settings):
                without, with_prompt = predicted.chunk(2)
                predicted = without + settings.guidance * (with_prompt - without)
            latents = self.scheduler.step(predicted, time, latents, return_dict=False)[0]
            latents = self._held(latents, pictures, noise, times[step + 1] if step + 1 < len(times) else None)
            if on_step:
                on_step(step + 1, len(times))
        return cast("Tensor", latents)

    def _rows(self, parts: Sequence[Tensor]) -> Tensor:
        """[G, …] of B pictures -> [G * B, …], guidance-major, as the latents lie."""
        return torch.stack(list(parts), 1).flatten(0, 1).to(self.device, self.dtype)

    def _mask(self, pictures: Sequence[Picture]) -> Tensor:
        """The product's mask, shared out over the views, [1, N, H, W]: together they count once."""
        tokens, mask = cast("Tensor", pictures[0].tokens), cast("Tensor", pictures[0].mask)
        views = tokens.shape[1]
        return (mask[None, None] / views).repeat(1, views, 1, 1).to(self.device, self.dtype)

    def _controls(self, pictures: Sequence[Picture], groups: int) -> list[Tensor]:
        """Each ControlNet's embedding of its pictures, [G * B, c, h, w]."""
        embedded = []
        for index, embed in enumerate(self.embedders):
            images = torch.stack([one.controls[index] for one in pictures]).to(self.device, self.dtype)
            embedded.append(embed(images).repeat(groups, 1, 1, 1))
        return embedded

    def _residuals(
        self,
        rows: Tensor,
        time: Tensor,
        prompts: Tensor,
        told: dict[str, Any],
        controls: Sequence[Tensor],
        settings: SdxlSettings,
        share: float,
    ) -> tuple[list[Tensor] | None, Tensor | None]:
        """Sum of what the ControlNets that still act have to say."""
        down: list[Tensor] | None = None
        middle: Tensor | None = None
        for index, picture in enumerate(controls):
            scale = _of(settings.control_scale, index)
            # As diffusers counts: a net stops with the first step that ends after its share.
            if scale == 0 or share > _of(settings.control_end, index):
                continue
            more, more_middle = self._controlled[index](
                rows,
                time,
                encoder_hidden_states=prompts,
                controlnet_cond=picture,
                conditioning_scale=scale,
                added_cond_kwargs=told,
                return_dict=False,
            )
            down = [a + b for a, b in zip(down, more, strict=True)] if down else list(more)
            middle = more_middle if middle is None else middle + more_middle
        return down, middle

    def _held(self, latents: Tensor, pictures: Sequence[Picture], noise: Tensor, later: Tensor | None) -> Tensor:
        """Put the photo's own latents, noised to the next step's level, where the photo is kept (RePaint without resampling)."""
        if pictures[0].known is None:
            return latents
        known = torch.stack([cast("Tensor", one.known) for one in pictures]).to(latents)
        keep = torch.stack([cast("Tensor", one.keep) for one in pictures])[:, None].to(latents)
        if later is not None:
            known = self.scheduler.add_noise(known, noise, later[None])
        return torch.lerp(latents, known, keep)


def guided(settings: SdxlSettings) -> bool:
    """Whether every step is run twice, with and without the prompt."""
    return settings.guidance > 1


def _of(values: tuple[float, ...], index: int) -> float:
    """One value for every net, or one each."""
    return values[min(index, len(values) - 1)]
