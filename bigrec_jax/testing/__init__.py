"""Fakes for tests, of this package and of what is built on it.

store         catalogue, examples, prompt and tokenizer of a small store
tiny_base     a Hugging Face directory with a tiny random LLaMA
lookup_model  a language model that is a table, and searches by hand
"""
