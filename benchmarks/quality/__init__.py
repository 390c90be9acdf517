"""How well it recommends: cells of docs/quality.md and its tables.

A cell is one data set, one model with its settings, one seed: a JSON file under
benchmarks/results/quality/, made by the product's own stages in a workdir under
.scratch/quality, and gone on with when it is started again.
"""
