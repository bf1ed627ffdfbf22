"""What outlives a process: logs and checkpoints. Bytes, files, checksums; what they mean is the core's."""
