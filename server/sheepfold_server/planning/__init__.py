"""What a fleet needs and what bounds its step, reckoned before it is rented: formulas, no I/O."""
