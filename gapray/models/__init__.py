"""Networks behind small typed interfaces, their model cards, and the store of their weights. Independent of Ray."""
