"""What every frame of an orbit should look like: geometry, view morph, weights."""
