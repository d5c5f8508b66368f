"""What only SDK 2 of Google can do on the API for developers: order a film. In an environment of its own, google-2."""
