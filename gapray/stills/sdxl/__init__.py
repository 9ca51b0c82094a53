"""Backend `sdxl`: SDXL, ControlNet (depth and canny) and IP-Adapter in gapray's own denoising loop."""
