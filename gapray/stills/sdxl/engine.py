"""The denoising loop: several pictures at once, conditions computed once, ControlNets skipped where their weight is 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers import StableDiffusionXLControlNetPipeline
from diffusers.models.attention_processor import Attention, FusedAttnProcessor2_0
from torch import Tensor, nn

from gapray.models.diffusers_parts import fuse_self_attention
from gapray.stills.sdxl.settings import SdxlSettings


@dataclass(frozen=True)
class Picture:
    """Everything that one picture is drawn from; all pictures of a batch have one shape."""

    prompts: Tensor
    """[G, tokens, D]: negative and positive with guidance, else positive."""
    pooled: Tensor
    """[G, P]: pooled text embeddings, likewise."""
    controls: Sequence[Tensor]
    """One picture for each ControlNet, float32 [3, H, W], 0 … 1."""
    tokens: Tensor | None
    """[G, N, T, D], tokens of the image adapter: no image and N views with guidance, else the views."""
    mask: Tensor | None
    """float32 [H, W], 0 … 1, where the adapter acts; None = everywhere."""
    noise: Tensor
    """[4, h, w]."""
    known: Tensor | None = None
    """[4, h, w]: latents of the photo, where it is kept."""
    keep: Tensor | None = None
    """[h, w], 0 … 1: how much of `known` is kept."""


class SdxlEngine:
    """Prepares a pipeline's modules and runs the loop.

    Args:
        pipe: Modules with or without an image adapter; it is modified and must not be used elsewhere afterwards.
    """

    def __init__(self, pipe: StableDiffusionXLControlNetPipeline) -> None:
        self.pipe = pipe
        self.unet, self.scheduler = pipe.unet, pipe.scheduler
        self.nets = list(getattr(pipe.controlnet, "nets", [pipe.controlnet]))
        self.device, self.dtype = pipe.unet.device, pipe.unet.dtype
        # What is the same in every step runs once for each picture: the adapter's projection and the ControlNets' embedding.
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
        """Compile UNet and ControlNets with torch.compile, when the first picture of each shape is drawn.

        CUDA graphs are not used: a step of four pictures keeps an H200 busy for 0.25 s, and they made it no shorter.
        """
        self._unet = torch.compile(self.unet.forward, dynamic=False)
        self._controlled = [torch.compile(net.forward, dynamic=False) for net in self.nets]

    @torch.no_grad()
    def image_tokens(self, embeds: Tensor) -> Tensor:
        """Project image embeddings [N, …] from the image encoder to tokens [N, T, D]."""
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
            settings: Number of steps, and the weight of each condition.
            on_step: Called with the number of steps done and in total.

        Returns:
            Latents [B, 4, h, w].
        """
        height, width = (8 * side for side in pictures[0].noise.shape[1:])
        prompts, pooled = (
            self._rows([getattr(picture, name) for picture in pictures]) for name in ("prompts", "pooled")
        )
        # SDXL is conditioned on the picture's size, where it was cropped, and the wanted size (all [pixels]).
        sizes = torch.tensor([height, width, 0, 0, height, width], device=self.device, dtype=self.dtype)
        added: dict[str, Any] = {"text_embeds": pooled, "time_ids": sizes.repeat(len(pooled), 1)}
        added_with_images = dict(added)
        attention: dict[str, Any] = {}
        if pictures[0].tokens is not None:
            self.pipe.set_ip_adapter_scale(settings.ip_scale)
            tokens = [cast("Tensor", picture.tokens) for picture in pictures]
            added_with_images["image_embeds"] = [self._rows(tokens)]
            if pictures[0].mask is not None:
                attention["ip_adapter_masks"] = [self._mask(pictures)]
        controls = self._controls(pictures, 2 if guided(settings) else 1)
        noise = torch.stack([picture.noise for picture in pictures]).to(self.device, self.dtype)
        self.scheduler.set_timesteps(settings.steps, device=self.device)
        times = self.scheduler.timesteps
        latents = noise * self.scheduler.init_noise_sigma
        for step, time in enumerate(times):
            rows = self.scheduler.scale_model_input(torch.cat([latents] * (2 if guided(settings) else 1)), time)
            rows = rows.contiguous(memory_format=torch.channels_last)
            down, middle = self._residuals(rows, time, prompts, added, controls, settings, (step + 1) / len(times))
            predicted = self._unet(
                rows,
                time,
                encoder_hidden_states=prompts,
                cross_attention_kwargs=attention or None,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
                added_cond_kwargs=added_with_images,
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
        """Stack [G, …] of B pictures to [G * B, …], guidance-major, in the order of the latents."""
        return torch.stack(list(parts), 1).flatten(0, 1).to(self.device, self.dtype)

    def _mask(self, pictures: Sequence[Picture]) -> Tensor:
        """The product's mask divided by the number of views, [1, N, H, W], so that together they count once."""
        tokens, mask = cast("Tensor", pictures[0].tokens), cast("Tensor", pictures[0].mask)
        views = tokens.shape[1]
        return (mask[None, None] / views).repeat(1, views, 1, 1).to(self.device, self.dtype)

    def _controls(self, pictures: Sequence[Picture], groups: int) -> list[Tensor]:
        """Each ControlNet's embedding of its pictures, [G * B, c, h, w]."""
        embedded = []
        for index, embed in enumerate(self.embedders):
            images = torch.stack([picture.controls[index] for picture in pictures]).to(self.device, self.dtype)
            embedded.append(embed(images).repeat(groups, 1, 1, 1))
        return embedded

    def _residuals(
        self,
        rows: Tensor,
        time: Tensor,
        prompts: Tensor,
        added: dict[str, Any],
        controls: Sequence[Tensor],
        settings: SdxlSettings,
        fraction: float,
    ) -> tuple[list[Tensor] | None, Tensor | None]:
        """Sum of the residuals of the ControlNets that are still active at this fraction of the steps."""
        down: list[Tensor] | None = None
        middle: Tensor | None = None
        for index, picture in enumerate(controls):
            scale = _of(settings.control_scale, index)
            # As in diffusers: a net stops with the first step that ends after its fraction of the steps.
            if scale == 0 or fraction > _of(settings.control_end, index):
                continue
            more, more_middle = self._controlled[index](
                rows,
                time,
                encoder_hidden_states=prompts,
                controlnet_cond=picture,
                conditioning_scale=scale,
                added_cond_kwargs=added,
                return_dict=False,
            )
            down = [a + b for a, b in zip(down, more, strict=True)] if down else list(more)
            middle = more_middle if middle is None else middle + more_middle
        return down, middle

    def _held(self, latents: Tensor, pictures: Sequence[Picture], noise: Tensor, later: Tensor | None) -> Tensor:
        """Keep the photo's own latents, noised to the next step's level, where `keep` says so (RePaint without resampling)."""
        if pictures[0].known is None:
            return latents
        known = torch.stack([cast("Tensor", picture.known) for picture in pictures]).to(latents)
        keep = torch.stack([cast("Tensor", picture.keep) for picture in pictures])[:, None].to(latents)
        if later is not None:
            known = self.scheduler.add_noise(known, noise, later[None])
        return torch.lerp(latents, known, keep)


def guided(settings: SdxlSettings) -> bool:
    """Whether every step runs twice, with and without the prompt (classifier-free guidance)."""
    return settings.guidance > 1


def _of(values: tuple[float, ...], index: int) -> float:
    """The value for a net, where one value is given for all nets, or one for each."""
    return values[min(index, len(values) - 1)]
