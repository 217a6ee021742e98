"""Training text that package registries hold: read where it is installed or from Debian's archive.

None of it is shipped. Each module names its texts' licence.
"""
