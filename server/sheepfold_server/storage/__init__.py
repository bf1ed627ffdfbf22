"""Durability: logs and checkpoints. Today only `NullStorage`: a server process that dies takes its job along."""
