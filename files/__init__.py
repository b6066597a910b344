"""The ground, what all use: mistakes, reading, writing, locks, downloads, archives, torch_zip.

Nothing here imports from any other wing or from the top.
"""
