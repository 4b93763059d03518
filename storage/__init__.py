"""
The database: values, contract, engines.
"""
