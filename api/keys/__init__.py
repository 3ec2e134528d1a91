"""API keys of projects, for administrators."""
