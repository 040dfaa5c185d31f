"""What operators see: metrics, traces, logs. Other rooms report here; nothing here knows them, or gRPC."""
