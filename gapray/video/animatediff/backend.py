"""From conditions to a clip for the engine, and from its latents to frames."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from diffusers import AnimateDiffControlNetPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gapray.capture.angles import nearest_angle
from gapray.errors import InputError, ModelError
from gapray.gap.package import GapPackage
from gapray.orbit.conditions import OrbitConditions
from gapray.video.animatediff.engine import AnimateDiffEngine, Clip
from gapray.video.animatediff.settings import AnimateDiffSettings
from gapray.video.backend import Capabilities

SURE = 0.9
"""A captured pixel replaces a generated one where its visibility is at least this."""
FEATHER = 0.008
"""Width of that seam's feathering [frame sides]."""


class AnimateDiff:
    """Draws orbits by diffusion.

    Args:
        pipe: Loaded modules on their device; see `gapray.video.animatediff.load`.
        settings: Every call must use the same ones.
        licence: The strictest licence of its parts, SPDX.
    """

    def __init__(self, pipe: AnimateDiffControlNetPipeline, settings: AnimateDiffSettings, *, licence: str) -> None:
        self.engine = AnimateDiffEngine(pipe, settings)
        self._pipe, self._settings = pipe, settings
        self._prompts: Tensor | None = None
        self._blank: Tensor | None = None
        composite = settings.composite or settings.key_frames
        self.capabilities = Capabilities(
            name="animatediff",
            max_frames=int(pipe.unet.config["motion_max_seq_length"]),
            multiple_of=pipe.vae_scale_factor << (len(pipe.unet.config["block_out_channels"]) - 1),
            needs_gpu=True,
            licence=licence,
            source_type="compositeWithTrainedAlgorithmicMedia" if composite else "trainedAlgorithmicMedia",
        )

    def generate(
        self,
        package: GapPackage,
        conditions: OrbitConditions,
        settings: AnimateDiffSettings,
        *,
        seed: int = 0,
        on_step: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.uint8]:
        """Draw the orbit, as described in `VideoBackend.generate`.

        Raises:
            InputError: `video.unsupported`.
            ModelError: `model.out_of_memory`.
        """
        self.capabilities.check(conditions)
        if settings != self._settings:
            raise InputError("video.unsupported", "this backend was loaded with other settings")
        try:
            clip = self.clip(package, conditions, seed)
            latents = self.engine.denoise([clip], self.prompts(), self.blank(), on_step=on_step)
            frames = self.decode(latents[0])
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise ModelError("model.out_of_memory", f"{package.product_id}: {str(error).splitlines()[0]}") from error
        return composited(frames, conditions) if self._settings.composite else frames

    @torch.no_grad()
    def clip(self, package: GapPackage, conditions: OrbitConditions, seed: int) -> Clip:
        """Collect everything that one orbit's frames are drawn from."""
        settings = self._settings
        frames, side = conditions.depth.shape[:2]
        lattice = side // self._pipe.vae_scale_factor
        channels = self._pipe.unet.config["in_channels"]
        generator = torch.Generator().manual_seed(seed)
        start = self._encoded(conditions.initial) if settings.start == "morph" or settings.key_frames else None
        weights = torch.from_numpy(conditions.weights)
        if not settings.view_blend:
            front = nearest_angle([view.azimuth_deg for view in package.views], 0.0)
            weights = torch.nn.functional.one_hot(torch.full((frames,), front), len(package.views)).float()
        return Clip(
            controls=self._controls(conditions),
            tokens=self._tokens(conditions.references) if settings.ip_adapter else None,
            weights=weights,
            noise=torch.randn((channels, frames, lattice, lattice), generator=generator),
            start=start if settings.start == "morph" else None,
            known=start if settings.key_frames else None,
            key_frames=conditions.key_frames,
        )

    @torch.no_grad()
    def prompts(self) -> Tensor:
        """Text embeddings, [2, tokens, D] with guidance, else [1, tokens, D]; computed once."""
        if self._prompts is None:
            positive, negative = self._pipe.encode_prompt(
                self._settings.prompt,
                self.engine.device,
                1,
                self.engine.guided,
                self._settings.negative_prompt,
            )
            self._prompts = torch.cat([negative, positive]) if self.engine.guided else positive
        return self._prompts

    @torch.no_grad()
    def blank(self) -> Tensor | None:
        """Image tokens of no image, [1, T, D]; computed once. None without an image adapter."""
        if self._settings.ip_adapter is None:
            return None
        if self._blank is None:
            pixels = self._features(np.zeros((1, 8, 8, 3), np.uint8))
            embeds = self._encoded_views(torch.zeros_like(pixels))
            # The base adapter's "no image" is a zero embedding; the Plus adapter's the encoding of a zero image
            # (diffusers' `encode_image`).
            self._blank = self.engine.image_tokens(embeds if self._plus else torch.zeros_like(embeds))
        return self._blank

    @torch.no_grad()
    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Latents [4, F, h, w] -> uint8 [F, H, W, 3]; in smaller chunks when memory runs out."""
        vae = self._pipe.vae
        frames = (latents.transpose(0, 1) / vae.config.scaling_factor).to(vae.dtype)
        chunk = min(self._settings.decode_chunk, len(frames))
        while True:
            try:
                images = torch.cat([vae.decode(part, return_dict=False)[0].float() for part in frames.split(chunk)])
                break
            except torch.OutOfMemoryError:
                if chunk == 1:
                    raise
                torch.cuda.empty_cache()
                chunk = max(1, chunk // 2)
        pixels = ((images / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        return np.asarray(pixels.cpu().numpy())

    def _encoded(self, images: NDArray[np.uint8]) -> Tensor:
        """uint8 [F, H, W, 3] -> latents [4, F, h, w]."""
        vae = self._pipe.vae
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1
        chunks = torch.split(pixels, self._settings.decode_chunk)
        latents = torch.cat([vae.encode(chunk).latent_dist.mode() for chunk in chunks]) * vae.config.scaling_factor
        by_channel: Tensor = latents.transpose(0, 1)
        return by_channel

    def _controls(self, conditions: OrbitConditions) -> tuple[Tensor, ...]:
        """Depth for the first ControlNet, edges of the initial images for a second one; [F, 3, H, W] each, 0 … 1."""
        pictures = [torch.from_numpy(conditions.depth)]
        if len(self.engine.controlnets) > 1:
            edges = np.stack([cv2.Canny(image, 100, 200) for image in conditions.initial])
            pictures.append(torch.from_numpy(edges).float() / 255)
        # One channel is sent to the device; the network reads it as three.
        return tuple(picture.to(self.engine.device)[:, None].expand(-1, 3, -1, -1) for picture in pictures)

    @property
    def _plus(self) -> bool:
        from diffusers.models.embeddings import ImageProjection

        assert self.engine.projection is not None
        return not isinstance(self.engine.projection.image_projection_layers[0], ImageProjection)

    def _features(self, images: NDArray[np.uint8]) -> Tensor:
        listed = [Image.fromarray(image) for image in images]
        pixels: Tensor = self._pipe.feature_extractor(listed, return_tensors="pt").pixel_values
        return pixels

    def _encoded_views(self, pixels: Tensor) -> Tensor:
        encoder = self._pipe.image_encoder
        out = encoder(pixels.to(encoder.device, encoder.dtype), output_hidden_states=self._plus)
        embeds: Tensor = out.hidden_states[-2] if self._plus else out.image_embeds
        return embeds

    def _tokens(self, references: NDArray[np.uint8]) -> Tensor:
        return self.engine.image_tokens(self._encoded_views(self._features(references)))


def composited(frames: NDArray[np.uint8], conditions: OrbitConditions) -> NDArray[np.uint8]:
    """Put captured pixels over generated ones where they were certainly seen, and the background where there is no product.

    Args:
        frames: uint8 [F, S, S, 3].
        conditions: Conditions of the same orbit.

    """
    side = frames.shape[1]
    result = frames.copy()
    for index, frame in enumerate(frames):
        seen = (conditions.visibility[index] >= round(255 * SURE)).astype(np.uint8)
        if index not in conditions.key_frames:
            seen = cv2.erode(seen, np.ones((3, 3), np.uint8), iterations=max(1, round(side * FEATHER)))
        mask = np.maximum(seen.astype(np.float32), (conditions.silhouette[index] == 0).astype(np.float32))
        if index not in conditions.key_frames:
            mask = cv2.GaussianBlur(mask, (0, 0), side * FEATHER / 2)
        else:
            mask = np.ones_like(mask)  # at a captured angle the photo itself is shown
        blend = mask[..., None]
        result[index] = np.rint(conditions.initial[index] * blend + frame * (1 - blend)).astype(np.uint8)
    return result
