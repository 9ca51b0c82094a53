"""Pictures and pages made from a catalogue, for people who would rather look."""
