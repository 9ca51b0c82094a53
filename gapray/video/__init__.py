"""Frames of the orbit from interchangeable backends, and the files made from them."""
