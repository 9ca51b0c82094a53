"""Runs on clusters that stand elsewhere: submitting them."""
