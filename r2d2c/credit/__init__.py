"""Credit rules: what a task learns from the task above."""
