"""Other people's models: Hugging Face folders, names on its hub, and the files of torchtext's BERT example.

It imports from ``files``, ``text`` and ``model``; ``checkpoint`` is the one that imports it.
"""
