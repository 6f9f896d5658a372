"""The parser of compiled programs, on text of the forms that XLA prints and on a small program."""

import pytest

from toklip_jax.planning.hlo import find_collectives, memory_traffic

# ruff: noqa: E501 (lines as XLA prints them)
LOOP = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%condition (state: (s32[], bf16[8,16])) -> pred[] {
  %bound = s32[]{:T(128)} constant(27)
  %state = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

%body (state: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %state = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %gathered = bf16[32,16]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=1, replica_groups=GROUPS, dimensions={0}, metadata={op_name="jit(step)/mlp"}
  %y = bf16[8,16]{1,0:T(8,128)(2,1)} slice(%gathered), slice={[0:8], [0:16]}
  ROOT %next = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) tuple(%i, %y)
}

%all-reduce-scatter (input: f32[64]) -> f32[8] {
  %input = f32[64]{0} parameter(0)
  %reduced = f32[64]{0} all-reduce(%input), replica_groups=[4,8]<=[32], to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[8]{0} dynamic-slice(%reduced, %zero), dynamic_slice_sizes={8}
}

ENTRY %main (x: bf16[8,16], g: f32[64]) -> (bf16[8,16], f32[8], f32[64]) {
  %x = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %g = f32[64]{0} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, /*index=1*/bf16[8,16]{1,0:T(8,128)(2,1)}) tuple(%zero, %x)
  %loop = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)}) while(%start), condition=%condition, body=%body
  %out = bf16[8,16]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
  %scattered = f32[8]{0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter
  %whole = f32[64]{0} all-reduce(%g), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %all = (bf16[8,16]{1,0:T(8,128)(2,1)}, f32[8]{0}, f32[64]{0}) tuple(%out, %scattered, %whole)
}
"""
MESH_GROUPS = "mesh['a'=4,'b'=8] device_ids=([8,4]T(1,0)) {'a'}"


@pytest.mark.parametrize("groups", ["{{0,1,2,3},{4,5,6,7}}", "[2,4]<=[8]", MESH_GROUPS])
def test_a_collective_in_a_loop_counts_times_its_trips(groups):
    (gather,) = [c for c in find_collectives(LOOP.replace("GROUPS", groups)) if c.times == 27]
    assert (gather.kind, gather.size, gather.group) == ("all-gather", 32 * 16 * 2, 4)
    assert gather.sent == 27 * 32 * 16 * 2 * 3 / 4
    assert gather.where == "jit(step)/mlp"


def test_a_reduction_sends_twice_what_its_half_does():
    found = {c.kind: c for c in find_collectives(LOOP)}
    assert found["all-reduce"].sent == 64 * 4 * 2 / 2
    assert found["reduce-scatter"].sent == 64 * 4 * 7 / 8


def test_a_known_trip_count_is_believed():
    known = LOOP.replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"},"x":1}'
    )
    assert {c.times for c in find_collectives(known)} == {1, 5}


def test_a_chain_over_several_fusions_counts_once():
    chain = '  %again{} = f32[128]{{0}} all-gather(%g), replica_groups={{{{0,1}}}}, frontend_attributes={{chain_id="7"}}\n'
    text = LOOP.replace("  ROOT %all", chain.format(1) + chain.format(2) + "  ROOT %all")
    assert len(find_collectives(text)) == len(find_collectives(LOOP)) + 1


def test_traffic_counts_loops_and_leaves_out_what_stays_on_the_chip():
    gather_and_slice = (8 * 16 + 32 * 16 + 2 * 8 * 16) * 2
    fusion, reduction = (64 + 8) * 4, 2 * 64 * 4
    comparison = 4 + 4 + 1
    assert memory_traffic(LOOP) == 27 * (gather_and_slice + comparison) + fusion + reduction
    on_chip = LOOP.replace(
        "%gathered = bf16[32,16]{1,0:T(8,128)(2,1)}",
        "%gathered = bf16[32,16]{1,0:T(8,128)(2,1)S(1)}",
    )
    assert memory_traffic(LOOP) - memory_traffic(on_chip) == 27 * 32 * 16 * 2


SLICED = """HloModule jit_step

%inner (stack: f32[27,8], i: s32[]) -> f32[1,8] {
  %stack = f32[27,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %one = f32[1,8]{1,0} dynamic-slice(%stack, %i, %i), dynamic_slice_sizes={1,8}
}

%outer (stack: f32[27,8], i: s32[]) -> f32[1,8] {
  %stack = f32[27,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %layer = f32[1,8]{1,0} fusion(%stack, %i), kind=kLoop, calls=%inner
}

ENTRY %main (stack: f32[27,8], i: s32[]) -> f32[1,8] {
  %stack = f32[27,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %out = f32[1,8]{1,0} fusion(%stack, %i), kind=kOutput, calls=%outer
}
"""


def test_a_layer_read_out_of_a_stack_counts_as_a_layer():
    index = 4
    assert memory_traffic(SLICED) == 2 * 8 * 4 + index


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="expected the text of an HLO module"):
        find_collectives("HloModule empty")
