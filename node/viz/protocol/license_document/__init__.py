"""The license document: its fields, its canonical form, and its agreement with the chain.

``model`` has the fields, ``contradictions`` the rules between them, ``reading`` the two input
formats (TOML that a creator writes, JSON between programs), ``writing`` the TOML with comments,
``agreement`` the comparison with on-chain terms, and ``presets`` the documents that ``viz license
new`` starts from.
"""
