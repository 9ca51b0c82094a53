"""The Generative Asset Package (GAP): its data classes, its identity embedding, and its folder on disk."""
