"""Projects and their quotas, for administrators."""
