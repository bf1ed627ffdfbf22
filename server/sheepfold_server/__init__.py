"""The server: coordinator, shards and dashboard."""
