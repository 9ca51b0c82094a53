"""Frames of the orbit from interchangeable backends, and the files they become."""
