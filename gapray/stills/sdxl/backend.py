"""From a packaged view and a scene to pictures for the engine, and from its latents to stills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import StableDiffusionXLControlNetPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gapray.capture.angles import rank_by_angle
from gapray.errors import ModelError
from gapray.gap.package import DEPTH_MAX, GapPackage, GapView
from gapray.models.identity import mask_square
from gapray.resample import cropped, resized
from gapray.stills.scene import Scene, checked_prompt
from gapray.stills.sdxl.engine import Picture, SdxlEngine, guided
from gapray.stills.sdxl.prompts import encoded
from gapray.stills.sdxl.settings import SdxlSettings
from gapray.stills.settings import StillSettings
from gapray.stills.still import THIN_LINE, Still, still_size

LATENT_SCALE = 8
FEATHER = 0.004
"""Width of the feathered seam where the photo's product is pasted [longer sides]."""
_Image = NDArray[np.uint8]


class Sdxl:
    """Draws stills by diffusion.

    Args:
        pipe: Loaded modules on their device; see `gapray.stills.sdxl.load`.
        compiled: Whether to call `compile`.
        licence: The strictest licence of its parts, SPDX.
    """

    name = "sdxl"
    generative = True

    def __init__(self, pipe: StableDiffusionXLControlNetPipeline, *, compiled: bool = False, licence: str) -> None:
        self._plus = "Plus" in type(_projection(pipe)).__name__
        self.engine = SdxlEngine(pipe)
        self.licence = licence
        self._pipe = pipe
        self._decoded: Callable[..., Any] = pipe.vae.decode
        self._blank: Tensor | None = None
        if compiled:
            self.compile()

    def compile(self) -> None:
        """Compile the loop's networks and the decoder, when the first picture of each shape is drawn."""
        self.engine.compile()
        self._decoded = torch.compile(self._pipe.vae.decode, dynamic=False)

    def generate(
        self, package: GapPackage, view: GapView, scene: Scene, settings: StillSettings, *, seeds: Sequence[int]
    ) -> list[Still]:
        """Draw the view into the scene, as described in `StillBackend.generate`.

        Raises:
            InputError: `still.aspect`, `still.empty_prompt`, `still.prompt_too_long`.
            ModelError: `model.out_of_memory`.
        """
        size = still_size(view.mask.shape[0], view.mask.shape[1], settings.megapixels)
        stills: list[Still] = []
        try:
            shared = self._shared(package, view, scene, settings.sdxl, size)
            for at in range(0, len(seeds), settings.sdxl.batch):
                pictures = [self._picture(shared, seed, size) for seed in seeds[at : at + settings.sdxl.batch]]
                images = self.decode(self.engine.denoise(pictures, settings.sdxl))
                stills += [finished(image, view, size, exact=settings.sdxl.exact) for image in images]
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise ModelError("model.out_of_memory", f"{package.product_id}: {str(error).splitlines()[0]}") from error
        return stills

    def _shared(
        self, package: GapPackage, view: GapView, scene: Scene, settings: SdxlSettings, size: tuple[int, int]
    ) -> Picture:
        """Compute what the pictures of one scene have in common; the noise is filled in for each picture."""
        prompt, negative = scene.prompt_for(settings.product), scene.negative_prompt.strip() or " "
        texts = [negative, prompt] if guided(settings) else [checked_prompt(prompt)]
        prompts, pooled = encoded(self._pipe, texts)
        known = keep = None
        if settings.exact:
            known = self.encode(resized(view.reference, size))
            lattice = (size[0] // LATENT_SCALE, size[1] // LATENT_SCALE)
            keep = torch.from_numpy(resized(view.mask, lattice)).float() / 255
        mask = torch.from_numpy(resized(view.mask, size)).float() / 255 if settings.masked else None
        return Picture(
            prompts=prompts,
            pooled=pooled,
            controls=[torch.from_numpy(control) for control in control_images(view, size)][: len(self.engine.nets)],
            tokens=self._tokens(package, view, settings) if settings.ip_adapter else None,
            mask=mask if settings.ip_adapter else None,
            noise=torch.zeros(0),
            known=known,
            keep=keep,
        )

    def _picture(self, shared: Picture, seed: int, size: tuple[int, int]) -> Picture:
        generator = torch.Generator().manual_seed(seed)
        channels = int(self._pipe.unet.config["in_channels"])
        noise = torch.randn((channels, size[0] // LATENT_SCALE, size[1] // LATENT_SCALE), generator=generator)
        return Picture(**{**shared.__dict__, "noise": noise})

    @torch.no_grad()
    def _tokens(self, package: GapPackage, view: GapView, settings: SdxlSettings) -> Tensor:
        """Image tokens of the views nearest to the one that is shown, itself first, [G, N, T, D]."""
        ranked = rank_by_angle([other.azimuth_deg for other in package.views], view.azimuth_deg)
        chosen = [package.views[index] for index in ranked[: settings.references]]
        tokens = self.engine.image_tokens(self._embeds([on_grey(reference) for reference in chosen]))
        if not guided(settings):
            return tokens[None]
        if self._blank is None:
            pixels = self._features([np.zeros((8, 8, 3), np.uint8)])
            embeds = self._encoded(torch.zeros_like(pixels))
            # The base adapter's "no image" is a zero embedding; the Plus adapter's the encoding of a zero image
            # (diffusers' `encode_image`).
            self._blank = self.engine.image_tokens(embeds if self._plus else torch.zeros_like(embeds))
        return torch.stack([self._blank.expand_as(tokens), tokens])

    def _embeds(self, images: list[_Image]) -> Tensor:
        return self._encoded(self._features(images))

    def _features(self, images: list[_Image]) -> Tensor:
        pixels = self._pipe.feature_extractor(
            [Image.fromarray(image) for image in images], return_tensors="pt"
        ).pixel_values
        features: Tensor = pixels.to(self.engine.device, self.engine.dtype)
        return features

    def _encoded(self, pixels: Tensor) -> Tensor:
        encoder = self._pipe.image_encoder
        if self._plus:
            states: Tensor = encoder(pixels, output_hidden_states=True).hidden_states[-2]
            return states
        embeds: Tensor = encoder(pixels).image_embeds
        return embeds

    @torch.no_grad()
    def encode(self, image: _Image) -> Tensor:
        """uint8 [H, W, 3] -> latents [4, h, w], the mode of the encoder's distribution."""
        vae = self._pipe.vae
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(vae.device, vae.dtype) / 127.5 - 1
        code: Tensor = vae.encode(pixels).latent_dist.mode()[0] * vae.config.scaling_factor
        return code.float().cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[_Image]:
        """Latents [B, 4, h, w] -> uint8 [H, W, 3] each; one at a time, because the decoder uses the most memory of all."""
        vae = self._pipe.vae
        images = []
        for latent in latents:
            pixels = self._decoded((latent[None] / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0][0]
            levels = (pixels.float() / 2 + 0.5).clamp(0, 1) * 255
            images.append(np.ascontiguousarray(levels.round().byte().permute(1, 2, 0).cpu().numpy()))
        return images


def finished(image: _Image, view: GapView, size: tuple[int, int], *, exact: bool) -> Still:
    """Combine what was drawn with the photo's own product, which is pasted over it if the product must be `exact`."""
    placed = resized(view.mask, size)
    if not exact:
        return Still(image, placed, pasted=False)
    photo = resized(view.reference, size)
    inner = cv2.erode(placed, np.ones((3, 3), np.uint8))
    alpha = cv2.GaussianBlur(inner.astype(np.float32) / 255, (0, 0), FEATHER * max(size))[..., None]
    mixed = photo * alpha + image * (1 - alpha)
    return Still(np.rint(mixed).astype(np.uint8), placed, pasted=True)


def control_images(view: GapView, size: tuple[int, int]) -> list[NDArray[np.float32]]:
    """Depth and canny edges of a view for ControlNets, float32 [3, H, W], 0 … 1; nearest is brightest."""
    depth = resized((view.depth.astype(np.float32) * (255 / DEPTH_MAX)).astype(np.uint8), size)
    edges = np.where(resized(view.canny, size) >= THIN_LINE, 255, 0).astype(np.uint8)
    return [np.repeat(control[None].astype(np.float32) / 255, 3, 0) for control in (depth, edges)]


def on_grey(view: GapView, side: int = 224) -> _Image:
    """The product alone on middle grey, centred in a square, so that the image adapter does not learn the backdrop."""
    alpha = view.mask[..., None].astype(np.float32) / 255
    clean = np.rint(view.reference * alpha + 127 * (1 - alpha)).astype(np.uint8)
    x, y, length = mask_square(view.mask)
    box = x - length / 2, x + length / 2, y - length / 2, y + length / 2
    return cropped(clean, box, (side, side), outside=127)


def _projection(pipe: StableDiffusionXLControlNetPipeline) -> object:
    multi = pipe.unet.encoder_hid_proj
    layers = getattr(multi, "image_projection_layers", None)
    return layers[0] if layers is not None else multi
