"""What a base model is trained to do: label words, a pooled head, or supervised fine-tuning on text."""
