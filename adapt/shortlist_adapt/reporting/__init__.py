"""What people read of a run: the decision of the gate, the model cards and the report."""
