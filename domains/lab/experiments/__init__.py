"""The experiments, one file each; `EXPERIMENTS` has them in the order in which they are best read."""
