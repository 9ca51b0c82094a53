"""Reports on a catalogue: images, pages, tables, and publishing."""
