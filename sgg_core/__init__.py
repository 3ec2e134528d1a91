"""Structured gradient guidance for few-shot fine-tuning. Import the modules you need; this file loads nothing."""
