import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from components.import_data.lines import blocks_of_lines

contents = st.lists(st.sampled_from([b"{", b"}", b"a", b"\n", b"\r", b"{}\n"])).map(b"".join)


@given(contents, st.integers(1, 9), st.integers(1, 3))
@example(b"{}\n{}", 3, 1)
@example(b"{}\n{}\n", 3, 2)
def test_blocks_hold_the_lines_of_the_file_whatever_their_size(content, num_bytes, num_lines):
    blocks = list(blocks_of_lines(io.BytesIO(content), num_bytes, num_lines))
    expected = list(io.BytesIO(content))
    assert [line for block in blocks for line in block] == expected
    assert [block[place] for block in blocks for place in range(len(block))] == expected
    assert b"".join(block.block for block in blocks) == content
    assert [size for block in blocks for size in block.lengths()] == list(map(len, expected))
    assert all(0 < len(block) <= num_lines for block in blocks)


def test_part_of_a_block_is_a_block():
    (block,) = blocks_of_lines(io.BytesIO(b"a\n{}\nb\n{}"), 100, 100)
    assert list(block[1:3]) == [b"{}\n", b"b\n"] and block[1:3].block == b"{}\nb\n"
    assert list(block[2:99]) == [b"b\n", b"{}"] and block[-1] == b"{}"
    assert not block.are_objects() and block[3:].are_objects() and block[1:2].are_objects()


@pytest.mark.parametrize("content", [b"{}", b"{}\n", b'{"a": 1}\n{}{}\n', b"{\xff}\n{ }"])
def test_lines_that_begin_and_end_as_objects_are_told(content):
    (block,) = blocks_of_lines(io.BytesIO(content), 100, 100)
    assert block.are_objects()


@pytest.mark.parametrize(
    "content",
    [
        b"{\n}",
        b"{",
        b"}",
        b"\n",
        b"{}\n\n",
        b"\n{}",
        b"{}\r\n",
        b" {}\n",
        b"{} ",
        b"{}\n{\n}",
        b"1",
    ],
)
def test_lines_that_may_be_parts_of_a_value_are_not(content):
    (block,) = blocks_of_lines(io.BytesIO(content), 100, 100)
    assert not block.are_objects()
