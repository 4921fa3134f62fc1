"""Layer 3: pictures. Knows evaluation and data; knows neither tracking nor studies."""
