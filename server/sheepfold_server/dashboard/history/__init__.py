"""Step reports and events of all jobs, in one SQLite file that a restart does not empty."""
