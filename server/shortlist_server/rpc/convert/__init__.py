"""Between proto messages and domain values: a plain translation, with every field checked on the way in.

Pure functions; any thread. What is wrong raises ``InvalidArgument`` or a subclass, with the path of the field.
"""
