"""The console port: `/metrics` for Prometheus and `/health` for load balancers. Pages come with the web console."""
