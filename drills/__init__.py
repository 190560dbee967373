"""Drills: real runs that are killed, starved, damaged and fed with faults, and must end as if nothing had happened."""
