"""The benchmark: that it runs, and that its figures mean what they say."""
