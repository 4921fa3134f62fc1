"""Layer 3: experiments, runs and artifacts. The only package that knows MLflow.

MLflow costs two to three seconds to import, so it is imported inside functions.
"""
