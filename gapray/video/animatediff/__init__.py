"""Backend `animatediff`: SD 1.5, AnimateDiff, ControlNet and IP-Adapter in gapray's own denoising loop."""
