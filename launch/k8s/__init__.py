"""Kubernetes: manifests of a training and of the service, sized by a plan, and their rules."""
