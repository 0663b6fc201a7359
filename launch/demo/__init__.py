"""The demo: late arrivals of 2013's flights from New York, from raw tables to a report."""
