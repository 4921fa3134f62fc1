"""The usual ways, as tutorials show them: what the stages are measured against."""
