"""
The daemon: polls agents, spools what it saw, hands it to the database.
"""
