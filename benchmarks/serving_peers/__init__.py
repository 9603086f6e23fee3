"""The servers that benchmarks/serving.py measures: one file each, and in apps/ what each of them runs."""
