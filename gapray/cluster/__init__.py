"""Runs on remote clusters: planning them and submitting them as jobs."""
