"""Uploaded examples and published results."""
