"""The workers that are there."""
