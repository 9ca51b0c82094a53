"""What other apps recorded of a capture: poses, depth, and which of their many photos to use."""
