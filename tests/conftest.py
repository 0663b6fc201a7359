"""What all tests share."""

from hypothesis import settings

# A deadline measures the machine, not the code: the first example pays for imports and page faults.
settings.register_profile("muxtable", deadline=None)
settings.load_profile("muxtable")
