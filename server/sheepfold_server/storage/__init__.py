"""What outlives a process: logs. Bytes, files and checksums; what they mean is the core's."""
