"""Cameras and silhouettes: pure NumPy, no networks."""
