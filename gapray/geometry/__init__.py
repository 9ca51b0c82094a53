"""Cameras, silhouettes and hulls, in NumPy and PyTorch; no networks."""
