"""Training of the weights of `gapray.orbit.synthesis`: procedural products are photographed, reconstructed and learned from.

Not part of the wheel; `docs/synthesis.md` has the recipe.
"""
