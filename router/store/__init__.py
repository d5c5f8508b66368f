"""The engines behind `world.Store`: `memory` is the readable reference, `sqlite` the embedded database. Floor 3."""
