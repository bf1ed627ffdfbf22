"""Durability: today only `NullStorage`; a server process that dies takes its job along."""
