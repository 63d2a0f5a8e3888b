"""What was measured, and the programs that measured it."""
