"""Revisions of the relational half; found through this package, so that an installed wheel brings them along."""
