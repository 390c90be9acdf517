"""Keys of a config.json that nothing here reads: refused, harmless or told.

What another network would do with a key is not done here, so a value that
asks for it is refused by name. A key that is in neither list is told once.
"""

from typing import Any

from bigrec_jax.models.hf_config import Reader, warn

_READ = frozenset(
  {
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "hidden_act",
    "attention_dropout",
    "quantization_config",
    "layer_types",
    "sliding_window",
    "use_sliding_window",
  }
)
# Of other networks than this one; where there is such a thing, it changes
# every result.
_OTHER_NETWORKS = frozenset(
  {
    "add_cross_attention",
    "alibi",
    "attention_chunk_size",
    "attention_multiplier",
    "attn_logit_softcapping",
    "clip_qkv",
    "compression_config",
    "dim_model_base",
    "embedding_multiplier",
    "embedding_size",
    "expert_layer_period",
    "final_logit_softcapping",
    "hidden_activation",
    "is_encoder_decoder",
    "layer_norm_type",
    "lm_head_bias",
    "lm_head_multiplier",
    "logit_scale",
    "logits_scaling",
    "moe_intermediate_size",
    "n_routed_experts",
    "no_rope_layer_interval",
    "no_rope_layers",
    "norm_type",
    "num_experts",
    "num_experts_per_tok",
    "num_local_experts",
    "parallel_attn",
    "position_embedding_type",
    "qk_layernorm",
    "qk_norm",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "rope_interleaved",
    "rope_local_base_freq",
    "rope_percent",
    "rotary_pct",
    "scale_depth",
    "scale_emb",
    "sliding_window_pattern",
    "use_mrope",
    "use_parallel_residual",
    "use_qk_norm",
  }
)
# Without effect on the states and logits of this network: what transformers
# writes for every model, what only its own generation, training or classes
# read, and what tools leave behind.
_HARMLESS = frozenset(
  """
  _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path
  attn_implementation architectures auto_map bad_words_ids
  begin_suppress_tokens chunk_size_feed_forward cross_attention_hidden_size
  custom_pipelines decoder_start_token_id diversity_penalty do_sample dtype
  early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
  finetuning_task forced_bos_token_id forced_eos_token_id id2label is_decoder
  label2id length_penalty max_length max_sequence_length max_window_layers
  min_length model_max_length name_or_path no_repeat_ngram_size num_beam_groups
  num_beams num_labels num_return_sequences output_attentions
  output_hidden_states output_scores prefix pretraining_tp problem_type
  pruned_heads remove_invalid_values repetition_penalty return_dict
  return_dict_in_generate sep_token_id suppress_tokens task_specific_params
  temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p
  torch_dtype torchscript transformers_version typical_p unk_token_id
  unsloth_fixed unsloth_version use_bfloat16 use_cache
  """.split()
)
# What a key of another network says where it has none of it.
_NEUTRAL: tuple[Any, ...] = (None, False, 0, [], {}, "", "rope", "rmsnorm")
# Missing in a Mistral's config.json, its window is this.
_MISTRAL_WINDOW = 4096


def check(reader: Reader, model_type: str) -> None:
  """Refuses what this network does not have; tells what it doesn't know.

  Args:
    reader: of a config.json.
    model_type: of this family.

  Raises:
    UserError: a key asks for another network.
  """
  reader.expect("hidden_act", ("silu", "swish"))
  reader.expect("attention_dropout", (0, 0.0))
  reader.expect("quantization_config", (), " (load the unquantised weights)")
  _check_windows(reader, model_type)
  if model_type != "llama":
    reader.expect("mlp_bias", (False,))
    reader.expect("attention_bias", (False,))
  for key in sorted(_OTHER_NETWORKS & reader.values.keys()):
    value = reader.values[key]
    if value not in _NEUTRAL and not (
      key.endswith(("multiplier", "scaling")) and value == 1
    ):
      raise reader.error(
        key, f"none (the network of a {model_type} here has no such thing)"
      )
  known = _READ | _OTHER_NETWORKS | _HARMLESS
  for key in reader.values:
    if key not in known:
      warn(f"{reader.source}: {key[:80]!r}: not known here, without effect")


def _check_windows(reader: Reader, model_type: str) -> None:
  """Refuses layers that see the last few tokens only."""
  kinds = reader.values.get("layer_types") or ()
  if not isinstance(kinds, (list, tuple)) or any(
    kind != "full_attention" for kind in kinds
  ):
    raise reader.error("layer_types", "only full_attention")
  if model_type == "qwen2":
    reader.expect("use_sliding_window", (False,))
    return
  reader.expect(
    "sliding_window",
    (),
    " (null: set it so if no text is longer than the window)",
  )
  if model_type == "mistral" and "sliding_window" not in reader.values:
    positions = reader.values.get("max_position_embeddings")
    if not isinstance(positions, int) or positions > _MISTRAL_WINDOW:
      raise reader.error(
        "sliding_window",
        "null (without the key transformers takes a window of"
        f" {_MISTRAL_WINDOW}; set it to null if no text is longer)",
      )
