"""Drop-in classes for the published BIMT notebooks: one namespace a notebook, with its defaults, on one implementation.

`from bimt_fast.compat.modular_addition import BioMLP` in place of a notebook's own class definitions makes it run: the
same constructors, attributes and methods, the same initial weights for the same seed, the same connection cost and the
same swaps (ties and float noise aside). A relocation computes one placement cost for each group of neurons instead of
the cost of the whole network for every candidate swap.

As published, `relocate` judges a swap by `get_cc()` with its default arguments, and leaves the optimizer's moments with
the slots when neurons move. `model.attach(optimizer, **settings)` is the one switch for the corrected behaviour: the
moments follow their neurons, and swaps are judged by `get_cc(**settings)`, the settings that training uses.

| namespace | classes |
|---|---|
| `symbolic_formulas`, `two_moons` | `BioLinear`, `BioMLP` |
| `modular_addition`, `permutation_s4` | the same, first layer folded twice, with a token embedding |
| `in_context` | `BioLinear`, `BioMLP`, `BioAttention`, `BioBlock`, `BioTransformer` |
| `mnist` | `BioLinear2D`, `BioMLP2D` |

`published` is the loop over candidate swaps itself, plainly written: the yardstick of speed.
Source: Liu, Gan, Tegmark 2023 (arXiv 2305.08746).
"""

from . import in_context, mnist, modular_addition, permutation_s4, symbolic_formulas, two_moons

__all__ = ["in_context", "mnist", "modular_addition", "permutation_s4", "symbolic_formulas", "two_moons"]
