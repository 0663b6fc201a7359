"""What all tests share."""

from hypothesis import settings

# A deadline measures the machine, not the code: the first example pays for imports and page faults.
settings.register_profile("muxtable", deadline=None)
# For `make fuzz`: parsers of what strangers send.
settings.register_profile("fuzz", deadline=None, max_examples=100_000)
settings.load_profile("muxtable")
