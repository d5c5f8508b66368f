"""Engines of `persistence.Store`: `memory` is the readable reference, `sqlite` the embedded database. Floor 3."""
