"""CaptureSet -> GapPackage, as pure functions. Batch and serve call the same steps; only the carrying differs."""
