"""Who may use a checkpoint."""
