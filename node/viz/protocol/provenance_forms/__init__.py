"""Write an adapter's training manifest in the forms that others read.

``facts`` gathers what is stated, ``ml_bom`` writes CycloneDX, ``training_summary`` the summary of
training content that the EU's AI Act asks for, and ``catalogue`` lists all forms.
"""
