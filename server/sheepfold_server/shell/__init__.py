"""Processes: gRPC services, actors, clocks. Decisions are in core, mathematics in optim."""
