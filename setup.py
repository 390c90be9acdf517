"""Packaging. Tested versions are pinned in constraints.txt."""

import setuptools

setuptools.setup(
  name="bigrec_jax",
  version="0.1.0",
  description="BIGRec in JAX: write the next item's title, ground it, rank.",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["bigrec_jax", "bigrec_jax.*"]),
  install_requires=[
    "absl-py",
    "array_record",
    "bm25s",  # BM25 over titles: tokens and the weights of the index.
    "flax",
    "grain",
    "jax>=0.10",
    "matplotlib",  # Plots of the report.
    "ml_collections",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "safetensors",
    "scipy",  # Sparse products: queries of BM25 times its index.
    "sentencepiece",  # LLaMA-1/2 tokenizer.model files.
    "tensorboardX",  # TensorBoard events without TensorFlow.
    "tensorflow-datasets",
    "tokenizers",
    "tqdm",
  ],
  extras_require={
    "cuda": ["jax[cuda12]"],
    "tpu": ["jax[tpu]"],
    "plan": ["libtpu"],  # The TPU compiler; jax's own extra [tpu] pins it.
    "test": ["pandas", "pytest", "ruff"],
    # Only tests and benchmarks compare with these.
    "peers": ["accelerate", "datasets", "peft", "torch", "transformers"],
  },
)
