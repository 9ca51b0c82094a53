"""The Generative Asset Package (GAP): what one is, its identity embedding, and its folder on disk."""
