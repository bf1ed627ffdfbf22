"""Decisions: no tensors, no clock, no I/O."""
