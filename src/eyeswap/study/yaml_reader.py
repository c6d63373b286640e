"""Moved to `eyeswap.yaml_reader`."""

from eyeswap.yaml_reader import read_yaml as read_yaml
