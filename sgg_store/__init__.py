"""What outlives a process: rows, objects, doorbells."""
