"""Who may look at what, and what is refused before anybody asks."""
