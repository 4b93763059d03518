"""
What the engine ``sqlite`` is made of.
"""
