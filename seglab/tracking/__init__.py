"""Layer 3: experiments, runs and artifacts. The only room that knows MLflow.

MLflow costs two to three seconds to import, so it is imported inside functions:
importing this room is free.
"""
