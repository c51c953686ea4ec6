"""Our code beside what one would use instead, on the same inputs in the same run: `python -m bench`."""
