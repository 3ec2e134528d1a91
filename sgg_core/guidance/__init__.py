"""The guided step and its parts."""
