"""Classes generated from proto/ by `make proto`."""
