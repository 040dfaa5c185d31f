"""Long-running operations: started by one call, followed and cancelled by others."""
