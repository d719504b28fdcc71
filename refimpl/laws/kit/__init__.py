"""What laws are made of: declarations read, calls drawn, budgets computed, functions checked."""
