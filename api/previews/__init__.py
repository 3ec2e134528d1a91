"""Previews: what the base model will see of a training file, and which parts are trained."""
