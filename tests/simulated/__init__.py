"""The simulated providers, driven from outside: by the vendor's own SDK where there is one, else by plain HTTP."""
