"""A run's jobs as a pipeline of Kubeflow, for clusters that have no hub."""
