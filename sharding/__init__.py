"""Where rows live: the table engines."""
