"""The kubernetes target: a Deployment behind a Service."""
