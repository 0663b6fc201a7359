"""Many trainings of one job: which table is worth its bytes."""
