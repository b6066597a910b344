"""Other people's models: Hugging Face folders, and the files of torchtext's BERT example.

It imports from ``files``, ``text`` and ``model``; ``checkpoint`` is the one that imports it.
"""
