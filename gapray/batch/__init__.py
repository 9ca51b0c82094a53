"""Runs as pipelines of stages, and their executors (Ray Data, one process). Models and algorithms live in other packages."""
