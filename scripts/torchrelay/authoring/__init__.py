"""Helps an author before there is a model to serve. This file imports nothing: the Python that has fastai imports it."""
