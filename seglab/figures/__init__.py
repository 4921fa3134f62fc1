"""Layer 3: pictures. Knows evaluation and data; knows neither tracking nor studies."""

import os

# A notebook's backend is inherited by the commands that it starts, where it may not exist.
os.environ["MPLBACKEND"] = "agg"
