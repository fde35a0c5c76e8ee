"""The composition root: from a configuration to running services, by role."""
