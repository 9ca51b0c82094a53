"""Where the weights of `gapray.orbit.synthesis` come from: procedural products, photographed, reconstructed, learned from.

Not part of the wheel. `docs/synthesis.md` has the recipe.
"""
