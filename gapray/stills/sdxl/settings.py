"""Settings of the SDXL backend."""

from __future__ import annotations

from pydantic import Field

from gapray.settings import Result, Settings, Work


class SdxlSettings(Settings):
    """SDXL + two ControlNets + IP-Adapter. With all refinements off it equals diffusers' own pipeline."""

    base: Result[str] = Field("stable-diffusion-xl-1.0", description="Card of the SDXL pipeline.")
    controlnets: Result[tuple[str, ...]] = Field(
        ("controlnet-depth-sdxl", "controlnet-canny-sdxl"), description="Cards of the ControlNets: depth, then canny."
    )
    ip_adapter: Result[str | None] = Field("ip-adapter-plus-sdxl", description="Card of the IP-Adapter; null = none.")
    steps: Result[int] = Field(30, ge=1, le=200, description="Denoising steps, DPM++ 2M.")
    guidance: Result[float] = Field(
        5.0, ge=1, le=30, description="Classifier-free guidance scale; 1 = off, which halves the work."
    )
    control_scale: Result[tuple[float, ...]] = Field((0.5, 0.5), description="Conditioning scale of each ControlNet.")
    control_end: Result[tuple[float, ...]] = Field(
        (0.8, 0.8), description="Fraction of the steps after which each ControlNet stops."
    )
    ip_scale: Result[float] = Field(0.6, ge=0, le=2, description="Scale of the IP-Adapter.")
    references: Result[int] = Field(
        3, ge=1, le=8, description="Number of views given to the IP-Adapter, nearest first."
    )
    masked: Result[bool] = Field(True, description="Restrict the IP-Adapter to the product's mask.")
    exact: Result[bool] = Field(
        False, description="Keep the photo's product: hold latents inside the mask and paste its pixels."
    )
    product: Result[str] = Field("a product", description="What prompts call the product.")
    batch: Work[int] = Field(4, ge=1, description="Images of one scene generated at once.")
    compile: Work[bool] = Field(False, description="Compile the UNet and the ControlNets by torch.compile.")


def sdxl_cards(settings: SdxlSettings) -> list[str]:
    """Names of the cards that SDXL needs, in a fixed order."""
    return [settings.base, *settings.controlnets, *([settings.ip_adapter] if settings.ip_adapter else [])]
