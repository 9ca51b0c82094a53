"""How faithful frames are: metrics, and the protocol that makes their numbers comparable."""
