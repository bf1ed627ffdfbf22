"""What pages are told while it happens."""
