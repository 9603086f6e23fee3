"""What serve.yml's jobs do around the stages."""
