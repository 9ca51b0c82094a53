"""Ray Data pipelines. The only place that imports ray.data; the models and the arithmetic live elsewhere."""
