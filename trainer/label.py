"""NOTICE to the author of label.py, draft.py, tracks.py: at 18:03 the trainer's helper overwrote this file by mistake,
not knowing of yours. Please write your version again; nothing else of yours was touched. (18:06)
"""
