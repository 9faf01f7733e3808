"""The same functions once per backend; reference.py says in plain PyTorch what each of them computes."""
