"""What is learned: data order, towers, losses, metrics, the loop, checkpoints."""
