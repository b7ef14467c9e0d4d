"""Looking at models and this machine: inspect, verify, measure, doctor."""
