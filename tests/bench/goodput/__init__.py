"""Steps per second while workers die, of ours and of peers: `make bench-goodput`."""
