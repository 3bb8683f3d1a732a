"""What this package costs, beside others on the same work: `make benchmark`."""
