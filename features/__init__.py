"""What a raw value is and which rows it owns: schema, hashing, routing, profile."""
