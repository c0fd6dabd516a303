"""The chapter on how models are tested: its tables, its figures, and what two evaluators differ by."""
