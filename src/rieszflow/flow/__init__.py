"""Particle flows along the gradient of MMD², and recordings of them that new points can follow."""

from rieszflow.flow.particle_flow import ParticleFlow
from rieszflow.flow.recording import RecordedFlow
from rieszflow.flow.steps import geometric_schedule

__all__ = ["ParticleFlow", "RecordedFlow", "geometric_schedule"]
