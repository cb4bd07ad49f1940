"""The detector of unsafe pictures, and the verdict on each."""
