"""Versions of models in MLflow's registry: made of trained variants, and promoted."""
