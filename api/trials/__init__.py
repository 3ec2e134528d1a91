"""Trying models out: chat, completion and classification, answered by the workers. No place to serve from."""
