"""Tables in a terminal."""

import pytest

from mnist_jax.text import text_table


def test_numbers_end_and_texts_begin_below_each_other():
    rows = [("a", "1.5", "10"), ("long", "20.0", "3")]
    assert text_table(("", "seconds to\ncompile", "MB"), rows).splitlines() == [
        "      seconds to",
        "         compile  MB",
        "a            1.5  10",
        "long        20.0   3",
    ]


@pytest.mark.parametrize("group", ["ab", "wider than both columns"])
def test_a_group_stands_above_its_columns(group):
    rows = [("1", "22", "333")]
    above, *table = text_table("nab", rows, groups=("", group, group), left=()).splitlines()
    assert above.index(group) >= 3
    assert len(above) <= len(table[0])
    assert {len(line) for line in table} == {len(table[0])}
    assert table[0].split() == ["n", "a", "b"]


def test_a_text_without_room_continues_in_further_lines_and_nothing_is_lost():
    rows = [("98.12", "optimizer=adamw, learning_rate=0.001", "3"), ("7.00", "optimizer=sgd", "3")]
    assert text_table(("mean", "point", "n"), rows, left=(1,), width=32).splitlines() == [
        " mean  point                n",
        "98.12  optimizer=adamw,     3",
        "       learning_rate=0.001",
        " 7.00  optimizer=sgd        3",
    ]


def test_several_texts_are_wrapped_and_numbers_never():
    rows = [("a name of many words", "and a protocol of many words", "98.12 to 98.34")]
    lines = text_table(("run", "protocol", "interval"), rows, left=(0, 1), width=44).splitlines()
    assert max(map(len, lines)) <= 44
    assert "98.12 to 98.34" in lines[1]
    assert " ".join(" ".join(lines[1:]).split()).count("words") == 2


@pytest.mark.parametrize(
    ("name", "width", "lines"),
    [
        ("l2_sweep (20261127T024422)", 32, ["l2_sweep", "(20261127T024422)"]),
        ("my_experiment_of_names", 25, ["my_", "experiment_", "of_names"]),
    ],
)
def test_a_name_breaks_inside_a_word_only_where_nothing_else_has_room(name, width, lines):
    rows = [(name, "chosen on the test set")]
    table = text_table(("run", "protocol"), rows, left=(0, 1), width=width).splitlines()
    place = table[0].index("protocol")
    assert [line[:place].strip() for line in table[1:]] == lines
    assert " ".join(" ".join(line[place:] for line in table[1:]).split()) == rows[0][1]
