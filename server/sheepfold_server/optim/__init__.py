"""Tensor maths of a shard: no I/O, no clock, any device."""
