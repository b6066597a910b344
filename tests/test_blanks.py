"""Blanks in questions: which underscores are one, and what fills several."""

import pytest
from toys import LETTERS, options

from heads import OPTION, QUESTION
from text.batches import EVALUATION
from text.questions import Article, blanks, fill, fill_in


@pytest.mark.parametrize("question, wanted", [
    ("The cat is on the _ .", 1), ("The cat is on the ____.", 1), ("_ is red, and _ is blue.", 2), ("_", 1),
    ("It was written by_.", 1), ('The best title is "_".', 1), ("In the text,_.", 1), ("Both (_) and a(n)_ are", 2),
    ("Where does it come from_?", 1), ("_ sat where?", 1), ("The cat ( __ ) there", 1), ("Die Katze ist schön_.", 1),
    ("Where is the cat?", 0), ("What does my_var hold?", 0), ("What does __init__ do?", 0), ("Is _private a name?", 0),
    ('What does the author mean by "the_most"?', 0), ("Who calls set_up_all()?", 0),
    ("What my_var holds is _ .", 1), ("my_var and __init__ are two_.", 1),  # beside a blank, a name is a name
    ("Active children_than others.", 1), ("It takes_hours and_yuan.", 2), ("In the text,_helps a lot.", 1),  # RACE's slips
    ("她先_，然后_了门。", 2), ("小明_了几个苹果?", 1), ("ネコは_にいる。", 1),  # no blanks between words
])  # fmt: skip
def test_a_blank_is_a_run_of_underscores_that_stands_for_itself(question, wanted):
    assert len(blanks(question)) == wanted
    assert all(set(question[start:end]) == {"_"} for start, end in blanks(question))


@pytest.mark.parametrize("question, option, statement", [
    ("What does my_var hold?", "a number", "What does my_var hold? a number"),
    ("What my_var holds is _ .", "red", "What my_var holds is red ."),
    ("_ is red, _ is blue.", "The cat; the dog", "The cat is red, the dog is blue."),
    ("From _ to _ .", "Monday;Friday", "From Monday to Friday ."), ("From _ to _ .", "one / two", "From one to two ."),
    ("From _ to _ .", "one...two", "From one to two ."), ("From _ to _ .", "one, two", "From one to two ."),
    ("From _ to _ .", "a, b; c, d", "From a, b to c, d ."), ("_ of _ .", "1;400; 104", "1;400 of 104 ."),
    ("_ , _ and _ .", "a; b; c", "a , b and c ."),
    ("_ is big, _ is small", "A", "A is big, A is small"), ("_ or _ .", "a; b; c", "a; b; c or a; b; c ."),
    ("她先_，然后_了门。", "开灯；关上", "她先 开灯 ，然后 关上 了门。"),
    ("It is _ .", "a; b", "It is a; b ."), ("It is _ .", "a;", "It is a; ."), ("It is _ .", "so ...", "It is so ... ."),
])  # fmt: skip
def test_each_blank_is_filled_by_its_part_or_else_by_the_whole_option(question, option, statement):
    assert fill(question, option) == statement


def test_where_the_parts_of_an_option_stand_in_the_statement():
    text, spans = fill_in("The _ is  on the _ .", "cat ;red  mat")
    assert [text[start:end] for start, end in spans] == ["cat", "red mat"] and text == "The cat is on the red mat ."


@pytest.mark.parametrize("layout", ["separate", "joint"])
def test_rows_tell_question_and_option_apart_by_the_same_rule(places, layout):
    asked = ["the _ is on the _ .", "what is my_cat ?"]
    article = Article("high1.txt", "the cat", asked, [["cat, mat", "dog, house"]] * 2, [0, 1])
    data = options([article], places, 220, layout=layout)

    def row(index, part):
        batch = data.collate([index], EVALUATION)
        ids, parts = (batch[name].reshape(-1) for name in ("input_ids", "parts"))
        return LETTERS.decode(ids[parts == part])

    assert row(0, OPTION) == "cat mat dog house" and row(1, OPTION) == "cat , mat dog , house"
    filled, whole = "the is on the .", LETTERS.decode(LETTERS.encode_ids(asked[1]))
    if layout == "separate":
        assert row(0, QUESTION) == f"{filled} {filled}" and row(1, QUESTION) == f"{whole} {whole}"
    else:  # the question once, and each option's filled blanks; without blanks, the option stands alone
        blanked = LETTERS.decode(LETTERS.encode_ids(asked[0]))
        assert row(0, QUESTION) == f"{blanked} {filled} {filled}" and row(1, QUESTION) == whole
