"""Photos -> `CaptureSet`: what was photographed, from which azimuths, and safe pixels."""
