"""The HTTP APIs: OpenAI Videos, RunPod v2, native, and the page. One job model stands behind them."""
