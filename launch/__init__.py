"""How it starts: the command line and the job file."""
