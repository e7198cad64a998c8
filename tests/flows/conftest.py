"""Property tests have no deadline: how busy the machine is says nothing of the code."""

from hypothesis import HealthCheck, settings

settings.register_profile("podium", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("podium")
