# ruff: noqa: E501  Lines as the compilers print them.
"""Collectives counted in literal compiled text."""

import pytest

from bigrec_jax.planning import hlo

# As XLA's CPU compiler prints it: the loop says how often it turns.
CPU = """\
HloModule jit_f, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%body (arg: (s32[], f32[4,6])) -> (s32[], f32[4,6]) {
  %arg = (s32[], f32[4,6]{1,0}) parameter(0)
  %x = f32[4,6]{1,0} get-tuple-element(%arg), index=1
  %ar = f32[4,6]{1,0} all-reduce(%x), channel_id=3, replica_groups=[2,4]<=[8], use_global_device_ids=true, to_apply=%sum, metadata={op_name="jit(f)/while/body/sum"}
  ROOT %t = (s32[], /*index=1*/f32[4,6]{1,0}) tuple(%i, %ar)
}

%condition (arg: (s32[], f32[4,6])) -> pred[] {
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p: bf16[2,6]) -> f32[4,6] {
  %p = bf16[2,6]{1,0} parameter(0)
  %ag = bf16[8,6]{1,0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, metadata={op_name="jit(f)/gather"}
  %rs = f32[2,6]{1,0} reduce-scatter(%z), channel_id=9, replica_groups=[4,2]<=[8], dimensions={0}, to_apply=%sum
  %cp = f32[5]{0} collective-permute(%y), channel_id=4, source_target_pairs={{0,1},{1,0}}
  %while.7 = (s32[], f32[4,6]{1,0}) while(%init), condition=%condition, body=%body, metadata={op_name="jit(f)/while"}, backend_config={"known_trip_count":{"n":"7"},"known_init_step":{"init":"0","step":"1"}}
  ROOT %out = f32[4,6]{1,0} get-tuple-element(%while.7), index=1
}
"""

# As the TPU compiler does: layouts with tiles, no trip count, and one
# collective of one channel in two fusions, a fused reduce-scatter.
TPU = """\
HloModule jit_g

%async_collective_fusion.1 (p: bf16[1,16,32]) -> bf16[1,128,32] {
  %p = bf16[1,16,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[1,128,32]{2,1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=58, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={1}
}

%async_collective_fusion.2 (p: bf16[1,16,32]) -> bf16[1,128,32] {
  %p = bf16[1,16,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[1,128,32]{2,1,0:T(8,128)(2,1)} all-gather(%p), channel_id=58, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={1}
}

%all-reduce-scatter.2 (p: f32[64]) -> f32[8] {
  %p = f32[64]{0:T(128)} parameter(0)
  %all-reduce.9 = f32[64]{0:T(128)} all-reduce(%p), channel_id=60, replica_groups=[1,8]<=[8], to_apply=%sum
  ROOT %slice = f32[8]{0:T(128)} dynamic-slice(%all-reduce.9, %o), dynamic_slice_sizes={8}
}

%layer (arg: (s32[], bf16[1,16,32])) -> (s32[], bf16[1,16,32]) {
  %arg = (s32[]{:T(128)}, bf16[1,16,32]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %f.1 = bf16[1,128,32]{2,1,0:T(8,128)(2,1)} fusion(%x), kind=kCustom, calls=%async_collective_fusion.1
  %f.2 = bf16[1,128,32]{2,1,0:T(8,128)(2,1)} fusion(%f.1), kind=kCustom, calls=%async_collective_fusion.2
}

ENTRY %main (p: f32[64]) -> f32[8] {
  %while.1 = (s32[]{:T(128)}, bf16[1,16,32]{2,1,0:T(8,128)(2,1)}) while(%t), condition=%c, body=%layer, metadata={op_name="jit(g)/Llama._run/while" stack_frame_id=73}
  %ars = f32[8]{0:T(128)} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.2
  %start = (bf16[3]{0}, bf16[24]{0}) all-gather-start(%q), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
  %done = bf16[24]{0} all-gather-done(%start)
}
"""


def by_kind(items):
  return {(i.kind, i.group): (i.bytes, i.times) for i in items}


def test_loops_with_a_known_number_of_turns():
  items, unknown = hlo.collectives(CPU, {}, 8)
  assert unknown == []
  assert by_kind(items) == {
    ("all-gather", 4): (8 * 6 * 2 * 3 / 4, 1),
    ("reduce-scatter", 2): (2 * 6 * 4 * 2 * 1 / 2, 1),
    ("collective-permute", 8): (20.0, 1),
    ("all-reduce", 4): (2 * 4 * 6 * 4 * 3 / 4, 7),
  }


def test_one_channel_in_several_fusions_counts_once_and_turns_are_given():
  items, unknown = hlo.collectives(TPU, {"_run/while": 32}, 8)
  assert unknown == []
  found = sorted((i.kind, i.bytes, i.times) for i in items)
  assert found == [
    ("all-gather", 24 * 2 * 7 / 8, 1),
    ("all-gather", 128 * 32 * 2 * 7 / 8, 32),
    ("reduce-scatter", 64 * 4 * 7 / 8, 1),
  ]


def test_a_collective_that_lasts_through_a_loop_counts_where_it_starts():
  start = """\
%fused_computation.3 (p: bf16[1,16,32]) -> bf16[1,128,32] {
  %p = bf16[1,16,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.3 = bf16[1,128,32]{2,1,0:T(8,128)(2,1)} all-gather(%p), channel_id=58, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={1}
}

ENTRY"""
  call = """\
  %async-collective-start = bf16[1,128,32]{2,1,0} fusion(%x), kind=kCustom, calls=%fused_computation.3
  %while.1"""
  text = TPU.replace("ENTRY", start).replace("  %while.1", call)
  items, _ = hlo.collectives(text, {"_run/while": 32}, 8)
  received = 128 * 32 * 2 * 7 / 8
  assert [i.times for i in items if i.bytes == received] == [1]


def test_a_loop_that_counts_has_as_many_turns_as_its_limit_over_its_step():
  more = """\
%c (arg: (s32[], bf16[1,16,32])) -> pred[] {
  %n = s32[]{:T(128)} constant(9)
  %arg = (s32[]{:T(128)}, bf16[1,16,32]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

ENTRY"""
  step = """\
  %two = s32[]{:T(128)} constant(2)
  %j = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %next = s32[]{:T(128)} add(%j, %two), metadata={op_name="jit(g)/add"}
  ROOT %t = (s32[]{:T(128)}, bf16[1,16,32]{2,1,0}) tuple(%next, %x)
  %f.1 ="""
  text = TPU.replace("ENTRY", more).replace("  %f.1 =", step)
  items, unknown = hlo.collectives(text, {"_run/while": 32}, 8)
  assert unknown == []
  assert max(i.times for i in items) == 5


def test_a_loop_nobody_knows_is_named():
  items, unknown = hlo.collectives(TPU, {"decode/while": 9}, 8)
  assert unknown == ["jit(g)/Llama._run/while"]
  assert max(i.times for i in items) == 1


@pytest.mark.parametrize("text", ["", "HloModule empty\n"])
def test_a_text_without_collectives(text):
  assert hlo.collectives(text, {}, 8) == ([], [])
