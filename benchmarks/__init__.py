"""What `make bench` measures: speed, memory and start-up on this machine, against the bars to reach."""
