"""Several processes, each with the whole base model on a GPU of its own, that compute the batches of one run together.

One of them, the leader, runs the training loop and takes every decision; the others, its helpers, know nothing but the
base model and the tasks' labels. For each gradient the leader tells them which examples it is of, and what the weights
are now; every process computes its part, and the parts are added up.
"""
