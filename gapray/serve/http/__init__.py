"""The HTTP APIs (OpenAI Videos and Images, RunPod v2, native) and the web page, all based on the same jobs."""
