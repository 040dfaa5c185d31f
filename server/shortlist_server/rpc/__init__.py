"""The edge: servicers, conversion, validation, error statuses."""
