"""Short-lived credentials: OIDC tokens, trust policies and kubeconfigs."""
