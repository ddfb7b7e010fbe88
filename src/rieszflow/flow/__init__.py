"""Particle flows along the gradient of the functional, and recordings of them that new points can follow."""

from rieszflow.flow.particle_flow import ParticleFlow, geometric_schedule
from rieszflow.flow.recording import RecordedFlow

__all__ = ["ParticleFlow", "RecordedFlow", "geometric_schedule"]
