"""What the two chapters on methods show: tables, figures, worked examples, classic traps."""
