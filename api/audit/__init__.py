"""The audit log: what is written about every call that changes something, and reading it."""
