"""
Figures that the project promises, measured side by side with what they are held against: ``make bench``.
"""
