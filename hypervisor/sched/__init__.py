"""Which vCPU runs, for how long; run states; timers."""
