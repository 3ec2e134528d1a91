"""Benchmarks: accuracy of methods on few-shot tasks, and the cost of a step. `sgg bench` runs them."""
