"""
A simulated fleet: real HTTP on loopback, in a process of its own, with faults on a script and a log to judge by.
"""
