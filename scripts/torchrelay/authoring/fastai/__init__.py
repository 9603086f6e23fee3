"""Exports a fastai learner to a model directory in pure PyTorch. The learner's file is loaded only in a sandbox.

This file imports nothing: the Python that has fastai imports `inside` from here.
"""
