"""What somebody should look at, and what to do about it."""
