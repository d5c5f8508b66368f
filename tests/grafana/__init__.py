"""The dashboard, the alert rules and their configuration files, held against what the daemon really shows."""
