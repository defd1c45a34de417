"""What can be done with a trained generator besides drawing samples: what `edit.py` runs."""
