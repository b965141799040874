"""Tables on a screen and in files: a row is a line, whatever the names of files and classes are."""

from mindcv_lite.text_tables import aligned, write_csv

ROWS = [("class", "images"), ("a\tb\nc", "12")]


def test_a_name_with_a_tab_and_a_line_break_stays_in_its_row(tmp_path):
    assert list(aligned(ROWS)) == ["class    images", r"a\tb\nc      12"]
    write_csv(tmp_path / "table.csv", ROWS)
    assert (tmp_path / "table.csv").read_text() == "class,images\na\\tb\\nc,12\n"
