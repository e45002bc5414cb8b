"""The grammar of the expression language, its reference, and the JSON Schema for editors."""
