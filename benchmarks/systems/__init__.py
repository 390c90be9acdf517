"""Every system of the house on the same rows: cells of docs/systems.md.

A cell is one data set, one base, one system, one seed: a JSON file under
benchmarks/results/systems/, made by the product's own stages in a workdir under
.scratch/systems, and gone on with when it is started again.
"""
