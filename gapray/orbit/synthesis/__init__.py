"""Learned view synthesis: a small network that draws an orbit's frames from the nearest photos."""
