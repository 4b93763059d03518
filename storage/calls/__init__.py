"""
The calls of ``storage.service.PersistenceService``, a file for each kind of thing that they are about.
"""
