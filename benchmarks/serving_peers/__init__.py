"""The servers that benchmarks/serving.py measures, one file each; apps/ has the programs that they run."""
