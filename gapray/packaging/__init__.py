"""Packaging: pure functions from a CaptureSet to a GapPackage, which batch runs and the server both use."""
