"""What podium promises of speed and size, measured: `make bench`."""
