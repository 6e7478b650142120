"""What the machine costs: each figure with its yardstick, measured in the same run. Started by scripts/bench."""
