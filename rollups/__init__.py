"""
What is computed from raw rows, and how long everything is kept.
"""
