"""The simulator of time: the real flow under a virtual clock and a seed, against providers that keep their own bill."""
