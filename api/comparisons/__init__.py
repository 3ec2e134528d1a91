"""Finished or running jobs side by side."""
