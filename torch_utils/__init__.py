"""Helpers that network pickles lean on: persistence, tensor utilities, operators, statistics, image output."""
