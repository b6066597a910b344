"""From a file to batches.

    places -> corpus, questions -> tokens (by a tokenizer, kept in the cache) -> masked_blocks, sentence_pairs,
    question_windows, option_rows, one file for each kind of example -> batches, and answers, which lead back to the text

It imports from ``files``, and the marks of tokens from ``heads``; nothing else.
"""
