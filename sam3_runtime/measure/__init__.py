"""The accuracy gate, the benchmark, and what they measure with."""
