"""
What the engines of the PostgreSQL family share: connections, partitions, ids, ingest, exact rollups, retention.
"""
