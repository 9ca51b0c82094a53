"""Pictures of a packaged product in new scenes."""
