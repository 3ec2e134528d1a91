"""Many small jobs on one frozen base model: their training passes are made together, as rows of one batch."""
