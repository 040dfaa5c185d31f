"""What operators see: metrics, traces and logs. Other rooms report here; nothing here knows them or gRPC."""
