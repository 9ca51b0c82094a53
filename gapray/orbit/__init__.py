"""What every frame of an orbit should look like: geometry, view morph, drawing engines, view weights."""
