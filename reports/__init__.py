"""
Reports: a catalogue of named questions, one ``.sql`` file each, run against any engine and rendered for people or programs.
"""
