"""Wire forms that several providers speak, and what all of them share when they fail. Pure: values in, values out.

An adapter uses them; they know no adapter. Nothing here makes a call.
"""
