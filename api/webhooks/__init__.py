"""Webhooks: addresses that are told of jobs."""
