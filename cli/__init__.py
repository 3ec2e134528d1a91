"""The `sgg` command. Only `train` and `predict` load torch, and only when they run."""
