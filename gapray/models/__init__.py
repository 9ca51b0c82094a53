"""Networks behind small typed interfaces, their cards, and where their weights come from. Knows nothing of Ray."""
