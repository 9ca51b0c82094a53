"""A packaged product in a new scene."""
