"""How faithful frames are: metrics and, later, the protocol that makes their numbers comparable."""
