"""One synchronous step of n workers, beside what else can make one on the same machine: `make bench-step`."""
